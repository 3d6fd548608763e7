from .decisions import SUFFIXES as SUFFIXES
from .decoder import (
    RULES as RULES,
    BadImage as BadImage,
    Picture as Picture,
    Rules as Rules,
    decode as decode,
    kept_pixels as kept_pixels,
    read_content as read_content,
    stored_shape as stored_shape,
)
from .formats import FORMATS as FORMATS
from .jpeg import decode_stored as decode_stored, encode as encode
