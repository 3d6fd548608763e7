def apply(
    pixels_address: int,
    flips_address: int,
    scale_address: int,
    offsets_address: int,
    output_address: int,
    images: int,
    height: int,
    width: int,
    threads: int,
    /,
) -> None: ...
