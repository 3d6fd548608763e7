"""Response normalisation within each map, as cuda-convnet's `rnorm` (Hinton et al. 2012, appendix)."""

from torch import Tensor, nn
from torch.nn import functional


class WithinMapNorm(nn.Module):
    """y = x · (k + α/size² · Σ x²)^-β, the sum over a window of `size` × `size` pixels of the same map.

    Pixels outside the image count as zeros. Sums are at least float32.
    """

    def __init__(self, size: int, alpha: float, beta: float, k: float) -> None:
        super().__init__()
        self.size, self.alpha, self.beta, self.k = size, alpha, beta, k

    def forward(self, images: Tensor) -> Tensor:
        """Takes and returns [batch, channels, height, width]."""
        squares = images.square() if images.itemsize >= 4 else images.float().square()
        # The mean counts the zeros, so it is the sum over size².
        mean = functional.avg_pool2d(squares, self.size, stride=1, padding=self.size // 2)
        return images * mean.mul(self.alpha).add(self.k).pow(-self.beta).to(images.dtype)
