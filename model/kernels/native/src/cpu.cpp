// Compiled for any x86-64: says what the library was made from, and whether the rest may run here.

extern "C" {

const char* gemmaray_digest() { return GEMMARAY_DIGEST; }

int gemmaray_cpu_supported() {
  __builtin_cpu_init();
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
         __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512bf16");
}

}  // extern "C"
