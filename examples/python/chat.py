"""A conversation: each line of the standard input is a message, each answer is printed as it comes.

    python chat.py MODEL [MAX_TOKENS [TEMPERATURE]] < messages

The model's chat template turns the conversation into a prompt. An empty line or the end of the input ends it.
"""

import sys

import libinfer


def main(path: str, max_tokens: str = "256", temperature: str = "0.7") -> None:
    with libinfer.Model(path) as model, libinfer.Engine(model) as engine:
        if not model.info.has_chat_template:
            sys.exit(f"chat: {path} has no chat template")
        conversation = []
        for line in sys.stdin:
            if not line.strip():
                break
            conversation.append({"role": "user", "content": line.rstrip("\r\n")})
            answer = ""
            for event in engine.submit(conversation, max_tokens=max_tokens, temperature=temperature):
                print(event.text, end="", flush=True)
                answer += event.text
            print()
            conversation.append({"role": "assistant", "content": answer})


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit("usage: chat.py MODEL [MAX_TOKENS [TEMPERATURE]]")
    try:
        main(*sys.argv[1:])
    except libinfer.InferError as error:
        sys.exit(f"chat: {error}")
