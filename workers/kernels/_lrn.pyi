MOST_CHANNELS: int
MOST_WINDOW: int

def apply(
    rows_address: int,
    grad_address: int,
    output_address: int,
    rows: int,
    channels: int,
    size: int,
    is_bf16: bool,
    rectify: bool,
    scale: float,
    k: float,
    threads: int,
    /,
) -> None: ...
