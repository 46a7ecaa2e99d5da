"""`python -m tests.reference` (`make docs`): write the pages made from the contract and the values of architectures."""

from __future__ import annotations

from tests.reference.pages import DOCS, pages


def main() -> None:
    for name, text in pages().items():
        (DOCS / name).write_text(text)


if __name__ == "__main__":
    main()
