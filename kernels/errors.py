"""Errors of kernel selection. Bad arguments of an operation are plain ValueError or TypeError."""


class KernelError(RuntimeError):
    """Base of the errors of registering and selecting kernels."""


class UnknownOperation(KernelError):
    """No operation has this name."""


class UnknownKernel(KernelError):
    """An override names a kernel that the operation does not have."""


class KernelDoesNotFit(KernelError):
    """An override names a kernel that cannot run this problem; the message says why and what fits."""


class InvalidKernel(KernelError):
    """A kernel's declaration is wrong: its name is taken, or it constrains a trait that the operation does not have."""
