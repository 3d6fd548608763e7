from .prediction import (
    load_member as load_member,
    predict as predict,
    predict_images as predict_images,
)
from .ten_crop import (
    TrainedMember as TrainedMember,
    crop_offsets as crop_offsets,
    mean_over_crops as mean_over_crops,
)
