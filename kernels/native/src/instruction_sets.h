#pragma once

// A function marked INSTRUCTION_SETS is compiled for several generations of x86, and the one of this machine is chosen
// when the library is loaded. What it calls must be marked ALWAYS, so that it is compiled into each of them.
//
// BY_REGISTER(F) does the same for functions with vector types: F(attribute, bytes of a register) defines them for one
// generation. GCC takes comparisons and choices of vectors wider than a register apart, number by number.
#if defined(__x86_64__) && defined(__GLIBC__) && defined(__GNUC__) && !defined(__clang__) && \
    !defined(__SANITIZE_ADDRESS__)  // the choice is made before a sanitizer is ready for it
#define INSTRUCTION_SETS __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#define BY_REGISTER(F)                             \
  F(__attribute__((target("arch=x86-64-v4"))), 64) \
  F(__attribute__((target("arch=x86-64-v3"))), 32) \
  F(__attribute__((target("default"))), 16)
#else
#define INSTRUCTION_SETS
#define BY_REGISTER(F) F(, 16)
#endif
#define ALWAYS inline __attribute__((always_inline))
#define ALWAYS_INLINE __attribute__((always_inline))  // of a lambda
