/* Sets callbacks that are given a number which Go knows (a cgo.Handle), never a Go pointer. */
#ifndef INFER_GO_CALLBACKS_H
#define INFER_GO_CALLBACKS_H

#include "infer.h"

infer_status infer_go_set_progress(infer_model_options *options, uintptr_t handle, infer_error **error);
infer_status infer_go_set_log(infer_engine_options *options, uintptr_t handle, infer_error **error);

#endif
