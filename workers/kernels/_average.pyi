MOST_MEMBERS: int

def apply(
    member_addresses: tuple[int, ...],
    weights: tuple[float, ...],
    output_address: int,
    num_items: int,
    /,
) -> None: ...
def apply_to_files(
    descriptors: tuple[int, ...],
    offsets_bytes: tuple[int, ...],
    weights: tuple[float, ...],
    room_address: int,
    room_items: int,
    output_address: int,
    num_items: int,
    /,
) -> bool: ...
