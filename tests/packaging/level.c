/* Prints the set of kernels the library takes on this CPU. */
#include <infer.h>
#include <stdio.h>

int main(void) {
  puts(infer_cpu_level_name());
  return 0;
}
