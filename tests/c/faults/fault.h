/* Functions that only a library built with --cfg infer_faults has. */
#ifndef FAULT_H
#define FAULT_H

#include "../check.h"

void infer_fault_arm(const char *place, uint64_t skip);
uint32_t infer_fault_disarm(void);

#endif
