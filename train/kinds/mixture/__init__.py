"""Training of the kind ``mixture``, in torch."""
