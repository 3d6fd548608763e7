def apply(
    source_address: int,
    row_stride: int,
    side: int,
    first_address: int,
    count_address: int,
    weights_address: int,
    most_weights: int,
    output_address: int,
    size: int,
    /,
) -> None: ...
