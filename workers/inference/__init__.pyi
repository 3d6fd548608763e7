from .prediction import (
    load_member as load_member,
    mean_over_crops as mean_over_crops,
    predict as predict,
    predict_images as predict_images,
)
