// Restart keeps what was computed for prompts in a directory: the cold tier. The first run computes its prompt; a second
// run, a process of its own, reads it back and generates the same text.
//
//	restart DIRECTORY [MODEL]
package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"

	infer "github.com/libinfer/libinfer/bindings/go"
)

// What many requests of a service begin with.
const prompt = `The old prince lived in the country, and everything in his house was done at its hour. In the morning he
walked in the garden, where the snow had been swept from the paths; then he worked in his study, and nobody was allowed
to disturb him. At dinner he asked his son about the war, and did not listen to the answer. The princess, his daughter,
was silent and looked at her plate. She knew that her brother would leave in the evening, and that his wife was afraid.
When the lamps had been lit the carriage stood at the door, and the servants carried out the boxes. Prince Andrew went
once more through the rooms in which he had been a child. His father sat at the table and wrote. "You are going?" he
asked, and went on writing. The old man turned round, put his pen down, and looked for a long time at the face of his
son, as if he wanted to remember it. Then he said:`

func main() {
	if len(os.Args) < 2 {
		fmt.Fprintln(os.Stderr, "usage: restart DIRECTORY [MODEL]")
		os.Exit(2)
	}
	model := "../../models/tolstoy-3m-Q8_0.gguf"
	if len(os.Args) > 2 {
		model = os.Args[2]
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, os.Args[1], model, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "restart:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, directory, path string, out io.Writer) error {
	model, err := infer.LoadModel(ctx, path, nil)
	if err != nil {
		return err
	}
	defer model.Close()
	// The directory is all that the cold tier needs. It takes up to kv_cold_bytes, 10 GiB when nothing else is said.
	engine, err := infer.NewEngine(model, &infer.EngineConfig{Options: infer.Options{"kv_cold_dir": directory}})
	if err != nil {
		return err
	}
	// Memory has room for everything until then: what is cached is written by Close, unless kv_cold_persist is false.
	defer engine.Close()
	request, err := engine.Submit(ctx, infer.Completion{
		Prompt:  prompt,
		Options: infer.Options{"max_tokens": 24, "temperature": 0},
	})
	if err != nil {
		return err
	}
	for event, err := range request.Events() {
		fmt.Fprint(out, event.Text)
		if err != nil {
			return err
		}
	}
	stats, err := engine.Stats()
	if err != nil {
		return err
	}
	// The last event says how much of the prompt was cached, in memory or in the directory.
	finish := request.Finish()
	fmt.Fprintf(out, "\nprompt: %d tokens, %d of them cached\n", finish.PromptTokens, finish.CachedTokens)
	_, err = fmt.Fprintf(out, "cold tier: %s, holds %d blocks, found %d tokens, read %d blocks, %d damaged\n",
		state(stats.KVColdState), stats.KVColdBlocks, stats.KVColdHitTokens, stats.KVColdReads, stats.KVColdCorrupt)
	return err
}

func state(number uint64) string {
	switch number {
	case 0:
		return "off"
	case 1:
		return "works"
	default:
		return "is left alone after a failure"
	}
}
