"""What holds a card back holds the push back."""

import json

import pytest

from mura_hf import CardError
from mura_hf.hub import push
from mura_hf.hub.card_gate import BLOCKS, METADATA

ALL = (METADATA, *BLOCKS)


def _needing(removed):
    """Titles of the blocks that cannot be without what was removed, or something in it."""
    return [
        block.title for block in ALL if any(need == removed or need.startswith(f"{removed}.") for need in block.needs)
    ]


@pytest.mark.parametrize("block", ALL, ids=lambda block: block.name)
def test_a_block_without_its_record_stops_the_push_by_its_name(block, pushable, hub, api):
    removed = block.needs[-1]
    record, *keys = removed.split(".")
    values = json.loads((pushable / f"{record}.json").read_text())
    inner = values
    for key in keys[:-1]:
        inner = inner[key]
    del inner[keys[-1]]
    (pushable / f"{record}.json").write_text(json.dumps(values))
    needing = _needing(removed)
    assert block.title in needing
    with pytest.raises(CardError, match=f'the block "{needing[0]}" of the card of .* {record}.json has no'):
        push(pushable, "tester/wrists", api=api, progress=False)
    assert hub.requests == []
