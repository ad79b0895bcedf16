#include "pci/bar_memory.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <utility>

#include "pci/layout.h"

namespace uvfio::pci {

Result<BarMemory> BarMemory::create(const Description& description) {
  BarMemory memory;
  std::uint64_t end = 0;
  for (unsigned i = 0; i < description.bars.size(); ++i) {
    const Bar& bar = description.bars[i];
    if (!bar.mappable.empty()) end = region_offset(i) + bar.size;
  }
  if (end == 0) return memory;
  memory.file_ = Fd(memfd_create("uvfio-bars", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  if (!memory.file_ || ftruncate(memory.file_.get(), static_cast<off_t>(end)) != 0 ||
      fcntl(memory.file_.get(), F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) != 0) {
    return fail(errno);
  }
  for (unsigned i = 0; i < description.bars.size(); ++i) {
    const Bar& bar = description.bars[i];
    if (bar.mappable.empty()) continue;
    void* at = mmap(nullptr, bar.size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE,
                    memory.file_.get(), static_cast<off_t>(region_offset(i)));
    if (at == MAP_FAILED) return fail(errno);
    memory.bars_[i] = {static_cast<std::byte*>(at), bar.size};
  }
  return memory;
}

BarMemory::BarMemory(BarMemory&& other) noexcept
    : file_(std::move(other.file_)), bars_(std::exchange(other.bars_, {})) {}

BarMemory::~BarMemory() {
  for (const auto bar : bars_) {
    if (!bar.empty()) munmap(bar.data(), bar.size());
  }
}

}  // namespace uvfio::pci
