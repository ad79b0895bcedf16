// A namespace and the file or block device behind it.
#pragma once

#include <array>
#include <cstdint>
#include <expected>
#include <memory>
#include <string>

#include "devices/nvme/cached_file.h"
#include "uvfio/fd.h"

namespace uvfio::nvme {

inline constexpr std::array<unsigned, 2> kLbaShifts{9, 12};  // LBA formats 0 and 1

// Opened read and write, and locked against other servers. Used by the controller's thread, but for
// what does not change.
class Namespace {
 public:
  // `lba_size` is 512 or 4096; 0: what a Format NVM has left in the file, else 512. `identity` is
  // the same for the same disk, always; the UUID comes from it. The error is a sentence.
  [[nodiscard]] static std::expected<std::unique_ptr<Namespace>, std::string> open(
      const std::string& path, unsigned lba_size, std::uint32_t nsid, const std::string& identity);

  [[nodiscard]] std::uint32_t id() const { return id_; }
  [[nodiscard]] int file() const { return file_.get(); }
  [[nodiscard]] CachedFile& cached() { return cached_; }
  [[nodiscard]] std::uint64_t size() const { return size_; }  // bytes
  [[nodiscard]] const std::array<std::uint8_t, 16>& uuid() const { return uuid_; }

  [[nodiscard]] unsigned format() const { return format_; }  // index in kLbaShifts
  [[nodiscard]] unsigned lba_shift() const { return kLbaShifts[format_]; }
  [[nodiscard]] std::uint64_t blocks() const { return size_ >> lba_shift(); }
  // Blocks that take space in the file.
  [[nodiscard]] std::uint64_t used_blocks() const;
  [[nodiscard]] bool contains(std::uint64_t first, std::uint64_t count) const {
    return first <= blocks() && count <= blocks() - first;
  }

  // The format as of now, and of the next start if the file can keep it.
  void set_format(unsigned format);

  unsigned in_flight = 0;   // I/O commands that use it
  bool formatting = false;  // no new ones

 private:
  Namespace() = default;

  std::uint32_t id_ = 0;
  Fd file_;
  std::uint64_t size_ = 0;
  CachedFile cached_;
  bool regular_ = false;
  unsigned format_ = 0;
  std::array<std::uint8_t, 16> uuid_{};
};

// 64 bits that look random and are the same for the same text.
[[nodiscard]] std::uint64_t fingerprint(const std::string& text);

}  // namespace uvfio::nvme
