"""Your own ``nn.Module`` as a bundle: exported by torch, with the weights that differ between users as inputs. Begin at ``wrap``."""

from isoform.train.modules.wrapped import Wrapped, wrap

__all__ = ["Wrapped", "wrap"]
