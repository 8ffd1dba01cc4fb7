"""Continues a prompt and prints the text as it comes.

    python hello.py [MODEL [PROMPT [MAX_TOKENS [TEMPERATURE]]]]

Without a model it uses the demo model of the repository.
"""

import sys

import libinfer


def main(
    path: str = "models/tolstoy-3m-Q8_0.gguf",
    prompt: str = "Prince Andrew looked at the sky",
    max_tokens: str = "64",
    temperature: str = "0.7",
) -> None:
    with libinfer.Model(path) as model, libinfer.Engine(model) as engine:
        # Each event brings what was generated since the last one; the last of them says how it ended.
        for event in engine.submit(prompt, max_tokens=max_tokens, temperature=temperature):
            print(event.text, end="", flush=True)
    print()


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except libinfer.InferError as error:
        sys.exit(f"hello: {error}")
