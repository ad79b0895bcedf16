#include "nodes/close_aside.h"

#include <atomic>
#include <system_error>
#include <thread>
#include <utility>

namespace uvfio::nodes {

void close_aside(Fd fd) {
  constexpr int kMost = 64;
  static std::atomic<int> busy{0};
  if (!fd) return;
  if (busy.fetch_add(1) < kMost) {
    try {
      std::thread([number = fd.get()] {
        Fd(number).reset();
        busy.fetch_sub(1);
      }).detach();
      fd.release();  // the thread's, which may have closed it by now
      return;
    } catch (const std::system_error&) {  // no thread to be had
    }
  }
  busy.fetch_sub(1);
}

}  // namespace uvfio::nodes
