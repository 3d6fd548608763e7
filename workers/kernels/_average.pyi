MOST_MEMBERS: int

def apply(
    member_addresses: tuple[int, ...],
    weights: tuple[float, ...],
    output_address: int,
    num_items: int,
    /,
) -> None: ...
