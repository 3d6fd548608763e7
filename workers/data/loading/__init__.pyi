from .augment import (
    PixelStatistics as PixelStatistics,
    Windows as Windows,
    crop as crop,
    draw_epoch as draw_epoch,
    to_input as to_input,
)
from .batches import (
    IMAGENET_MEAN as IMAGENET_MEAN,
    IMAGENET_STD as IMAGENET_STD,
    Batch as Batch,
    TrainingBatches as TrainingBatches,
    batches_ahead as batches_ahead,
    centre_batches as centre_batches,
    num_batches as num_batches,
    pixel_statistics as pixel_statistics,
)
from .teachers import Teachers as Teachers
from .transforms import Transforms as Transforms
