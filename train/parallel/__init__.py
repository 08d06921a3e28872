"""Data parallel training: several processes, started by ``torchrun``, that train one network as one process would."""
