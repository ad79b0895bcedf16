// Which sanitizers this is compiled with: UVFIO_TSAN, UVFIO_ASAN (also for UBSan).
#pragma once

#if defined(__SANITIZE_THREAD__)
#define UVFIO_TSAN 1
#endif
#if defined(__SANITIZE_ADDRESS__)
#define UVFIO_ASAN 1
#endif
#if defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define UVFIO_TSAN 1
#endif
#if __has_feature(address_sanitizer) || __has_feature(undefined_behavior_sanitizer)
#define UVFIO_ASAN 1
#endif
#endif
