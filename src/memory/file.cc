// A file as an address space.
#include <fcntl.h>
#include <linux/magic.h>
#include <sys/stat.h>
#include <sys/vfs.h>

#include <cstring>
#include <limits>

#include "memory/window.h"
#include "uvfio/memory.h"

namespace uvfio::memory {
namespace {

class FileAddressSpace final : public AddressSpace {
 public:
  FileAddressSpace(std::shared_ptr<Window> window, std::uint64_t size, bool writable)
      : window_(std::move(window)), size_(size), writable_(writable) {}

  [[nodiscard]] bool alive() const override { return true; }
  [[nodiscard]] std::string name() const override { return "a file"; }

  [[nodiscard]] Status read(std::uint64_t vaddr, std::span<std::byte> data) override {
    if (const auto ok = check(vaddr, data.size(), false); !ok || data.empty()) return ok;
    const std::uint32_t faults = window_->faults();
    std::memcpy(data.data(), window_->at(vaddr), data.size());
    return unless_faulted_since(faults);
  }

  [[nodiscard]] Status write(std::uint64_t vaddr, std::span<const std::byte> data) override {
    if (const auto ok = check(vaddr, data.size(), true); !ok || data.empty()) return ok;
    const std::uint32_t faults = window_->faults();
    std::memcpy(window_->at(vaddr), data.data(), data.size());
    return unless_faulted_since(faults);
  }

  [[nodiscard]] Status check(std::uint64_t vaddr, std::uint64_t size, bool write) override {
    if (size == 0) return {};
    if (vaddr >= size_ || size > size_ - vaddr || (write && !writable_)) return fail(EFAULT);
    return {};
  }

  [[nodiscard]] Result<View> view(std::uint64_t vaddr, std::uint64_t size, bool write) override {
    if (size == 0) return fail(EFAULT);
    if (const auto ok = check(vaddr, size, write); !ok) return std::unexpected(ok.error());
    return View{.host = window_->at(vaddr), .owner = window_};
  }

 private:
  // The client shrank the file under us: say so once, like a failed page fault.
  [[nodiscard]] Status unless_faulted_since(std::uint32_t faults) const {
    if (window_->faults() != faults) return fail(EFAULT);
    return {};
  }

  const std::shared_ptr<Window> window_;
  const std::uint64_t size_;
  const bool writable_;
};

}  // namespace

Result<std::shared_ptr<AddressSpace>> from_fd(Fd fd, std::uint64_t size) {
  struct stat file {};
  struct statfs file_system {};
  if (fstat(fd.get(), &file) != 0 || fstatfs(fd.get(), &file_system) != 0) return fail(errno);
  if (!S_ISREG(file.st_mode) || size == 0 || static_cast<std::uint64_t>(file.st_size) < size) {
    return fail(EINVAL);
  }
  // Whoever serves that file system decides when our page faults return: it may be the client.
  if (file_system.f_type == FUSE_SUPER_MAGIC) return fail(EINVAL);

  const std::uint64_t page_size = file_system.f_type == HUGETLBFS_MAGIC
                                      ? static_cast<std::uint64_t>(file_system.f_bsize)
                                      : kPageSize;
  const std::uint64_t rounded = (size + page_size - 1) & ~(page_size - 1);
  const bool writable = (fcntl(fd.get(), F_GETFL) & O_ACCMODE) == O_RDWR;
  auto window = Window::map(fd.get(), FileRange{.offset = 0, .size = rounded}, page_size, writable);
  if (!window) return std::unexpected(window.error());
  return std::make_shared<FileAddressSpace>(std::move(*window), size, writable);
}

}  // namespace uvfio::memory
