from .decisions import SUFFIXES as SUFFIXES
from .decoder import (
    RULES as RULES,
    BadImage as BadImage,
    Picture as Picture,
    Rules as Rules,
    centre_square as centre_square,
    decode as decode,
    read_content as read_content,
)
from .formats import FORMATS as FORMATS
from .jpeg import decode_window as decode_window, encode as encode
