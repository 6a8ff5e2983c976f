"""Keep a store of today's schema for the tests of tomorrow: 8 generated tones of 4 speakers."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from featstore.store.unit import SCHEMA
from tests.reliability.harness import CONFIG, build_arguments, call, tones


def main() -> None:
    """Write ``store-v<SCHEMA>`` beside this file, which must not be there."""
    place = Path(__file__).parent / f"store-v{SCHEMA}"
    if place.exists():
        sys.exit(f"{place} is there: it is never made anew, or it would prove nothing")
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "fast.toml"
        config.write_text(CONFIG)
        corpus = tones(Path(folder) / "corpus", per_speaker=2)
        done = call("featstore", *build_arguments(corpus, config, place))
    sys.exit(done.stderr if done.returncode else 0)


if __name__ == "__main__":
    main()
