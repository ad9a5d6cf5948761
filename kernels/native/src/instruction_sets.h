#pragma once

// A function marked INSTRUCTION_SETS is compiled for several generations of x86, and the one of this machine is chosen
// when the library is loaded. What it calls must be marked ALWAYS, so that it is compiled into each of them.
#if defined(__x86_64__) && defined(__GLIBC__) && defined(__GNUC__) && !defined(__clang__) && \
    !defined(__SANITIZE_ADDRESS__)  // the choice is made before a sanitizer is ready for it
#define INSTRUCTION_SETS __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define INSTRUCTION_SETS
#endif
#define ALWAYS inline __attribute__((always_inline))
#define ALWAYS_INLINE __attribute__((always_inline))  // of a lambda
