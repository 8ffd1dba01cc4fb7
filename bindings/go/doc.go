// Package infer generates text with GGUF language models on CPUs, inside your process.
//
// The main job:
//
//	model, err := infer.LoadModel(ctx, "model.gguf", nil)
//	...
//	defer model.Close()
//	engine, err := infer.NewEngine(model, nil)
//	...
//	defer engine.Close()
//	request, err := engine.Submit(ctx, infer.Completion{Prompt: "Once upon a time"})
//	...
//	for event, err := range request.Events() {
//		if err != nil {
//			return err
//		}
//		fmt.Print(event.Text)
//	}
//
// # Concurrency
//
// Models, engines, requests, thread pools and kernels may be used from any number of goroutines at the same time, Close
// included. An engine has one goroutine that reads the events of all its requests from the library; it never waits for
// a consumer. What a consumer has not read yet is joined into fewer, longer events. A thousand streams therefore need
// a few threads, not a thousand.
//
// # Cancelling
//
// The context given to [Engine.Submit] is that of the whole completion: when it is done, the completion ends within
// one layer of the model, and its last event says so.
//
// # Closing
//
// Close may be called twice, in any order and at any time. What is forgotten is closed when the garbage collector
// finds it, which can be late: models are large, so close them. A request keeps its engine from being collected.
//
// # Options
//
// Options are keys and values, checked by the library when they are used; [DescribeOptions] lists all with type, range,
// default and documentation.
//
// # Errors
//
// Errors of the library have the type [*Error] with a sentence for people, and match one of the Err constants:
//
//	if errors.Is(err, infer.ErrBusy) { ... }
package infer
