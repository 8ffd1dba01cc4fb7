#include "callbacks.h"

#include "_cgo_export.h"

static uint32_t progress(float fraction, void *user_data) {
  return inferGoProgress(fraction, (uintptr_t)user_data);
}

static void log_record(const infer_log_record *record, void *user_data) {
  inferGoLog(record->level, (char *)record->target, (char *)record->message, (char *)record->fields_json,
             (uintptr_t)user_data);
}

static void log_done(void *user_data) {
  inferGoLogDone((uintptr_t)user_data);
}

infer_status infer_go_set_progress(infer_model_options *options, uintptr_t handle, infer_error **error) {
  return infer_model_options_set_progress(options, progress, (void *)handle, NULL, error);
}

infer_status infer_go_set_log(infer_engine_options *options, uintptr_t handle, infer_error **error) {
  return infer_engine_options_set_log(options, log_record, (void *)handle, log_done, error);
}
