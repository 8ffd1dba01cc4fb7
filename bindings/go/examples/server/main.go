// Server answers POST /generate with the text of a model as server-sent events.
//
//	server [-addr 127.0.0.1:8080] MODEL
//	curl -N 127.0.0.1:8080/generate -d '{"prompt": "Once upon a time", "options": {"max_tokens": 64}}'
package main

import (
	"context"
	"errors"
	"flag"
	"log/slog"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	infer "github.com/libinfer/libinfer/bindings/go"
)

func main() {
	addr := flag.String("addr", "127.0.0.1:8080", "where to listen")
	grace := flag.Duration("grace", 10*time.Second, "how long streams may go on after an interrupt")
	flag.Parse()
	if flag.NArg() != 1 {
		flag.Usage()
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, *addr, flag.Arg(0), *grace); err != nil {
		slog.Error("server ended", "error", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, addr, path string, grace time.Duration) error {
	model, err := infer.LoadModel(ctx, path, nil)
	if err != nil {
		return err
	}
	defer model.Close()
	engine, err := infer.NewEngine(model, &infer.EngineConfig{Logger: slog.Default()})
	if err != nil {
		return err
	}
	defer engine.Close()
	server := &http.Server{Addr: addr, Handler: newHandler(engine), ReadHeaderTimeout: 10 * time.Second}
	ended := make(chan error, 1)
	go func() { ended <- server.ListenAndServe() }()
	slog.Info("listening", "addr", addr, "model", model.Info().Description)
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
	}
	// Streams that run may finish; those that take longer are cut, which cancels their completions.
	limit, cancel := context.WithTimeout(context.Background(), grace)
	defer cancel()
	if err := server.Shutdown(limit); errors.Is(err, context.DeadlineExceeded) {
		return server.Close()
	} else if err != nil {
		return err
	}
	return nil
}
