// Hello continues a prompt and prints the text as it comes.
//
//	hello [MODEL [PROMPT]]
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"

	infer "github.com/libinfer/libinfer/bindings/go"
)

func main() {
	path, prompt := "../../models/tolstoy-3m-Q8_0.gguf", "Prince Andrew looked at the sky"
	if len(os.Args) > 1 {
		path = os.Args[1]
	}
	if len(os.Args) > 2 {
		prompt = os.Args[2]
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, path, prompt); err != nil {
		fmt.Fprintln(os.Stderr, "hello:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, path, prompt string) error {
	model, err := infer.LoadModel(ctx, path, nil)
	if err != nil {
		return err
	}
	defer model.Close()
	engine, err := infer.NewEngine(model, nil)
	if err != nil {
		return err
	}
	defer engine.Close()
	request, err := engine.Submit(ctx, infer.Completion{
		Prompt:  prompt,
		Options: infer.Options{"max_tokens": 64, "temperature": 0.7},
	})
	if err != nil {
		return err
	}
	for event, err := range request.Events() {
		fmt.Print(event.Text)
		if err != nil {
			return err
		}
	}
	finish := request.Finish()
	fmt.Printf("\n%d tokens, %s, %.0f tokens/s\n", finish.GeneratedTokens, finish.Reason, finish.DecodeTokensPerSecond)
	return nil
}
