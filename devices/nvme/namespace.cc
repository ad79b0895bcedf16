#include "devices/nvme/namespace.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/fs.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/xattr.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <thread>

#include "base/log.h"

namespace uvfio::nvme {
namespace {

// Keeps the index of the LBA format in the file itself, as a disk does.
constexpr const char* kFormatAttribute = "user.uvfio.nvme.lba_format";

unsigned stored_format(int fd) {
  char digit = 0;
  if (fgetxattr(fd, kFormatAttribute, &digit, 1) != 1) return 0;
  const unsigned format = static_cast<unsigned char>(digit) - '0';
  return format < kLbaShifts.size() ? format : 0;
}

// Calls `take`, which is busy() as long as somebody else has the file. The kernel may still be
// ending the requests of a server that has been killed, which keep it for a moment.
template <typename Take, typename Busy>
void take_patiently(Take&& take, Busy&& busy) {
  constexpr auto kPatience = std::chrono::seconds(2);
  const auto end = std::chrono::steady_clock::now() + kPatience;
  for (take(); busy() && std::chrono::steady_clock::now() < end; take())
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
}

// Not blocking: it may be a pipe. Of a block device nobody else may make use (O_EXCL), such as a
// mounted file system; on files that has no effect.
Fd open_patiently(const std::string& path) {
  Fd file;
  take_patiently([&] { file = Fd(open(path.c_str(), O_RDWR | O_CLOEXEC | O_NONBLOCK | O_EXCL)); },
                 [&] { return !file && errno == EBUSY; });
  return file;
}

bool lock_patiently(int file) {
  int status = -1;
  take_patiently([&] { status = flock(file, LOCK_EX | LOCK_NB); },
                 [&] { return status != 0 && errno == EWOULDBLOCK; });
  return status == 0;
}

}  // namespace

std::uint64_t fingerprint(const std::string& text) {
  std::uint64_t hash = 0xcbf29ce484222325;  // FNV-1a, then stirred
  for (const char c : text) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3;
  hash ^= hash >> 33;
  hash *= 0xff51afd7ed558ccd;
  return hash ^ hash >> 33;
}

std::expected<std::unique_ptr<Namespace>, std::string> Namespace::open(
    const std::string& path, unsigned lba_size, std::uint32_t nsid, const std::string& identity) {
  const auto failed = [&](std::string_view what) {
    return std::unexpected(fmt::format("{}: {}", path, what));
  };
  std::unique_ptr<Namespace> made(new Namespace);
  made->id_ = nsid;
  made->file_ = open_patiently(path);
  if (!made->file_) {
    return failed(errno == EBUSY ? "in use: mounted, or a part of another device, or opened by "
                                   "another server"
                                 : strerror(errno));
  }

  struct stat status {};
  if (fstat(made->file(), &status) != 0) return failed(strerror(errno));
  made->regular_ = S_ISREG(status.st_mode);
  if (made->regular_) {
    made->size_ = static_cast<std::uint64_t>(status.st_size);
  } else if (!S_ISBLK(status.st_mode)) {
    return failed("neither a file nor a block device");
  } else if (ioctl(made->file(), BLKGETSIZE64, &made->size_) != 0) {
    return failed(strerror(errno));
  }
  // Operations are to wait for the disk.
  if (fcntl(made->file(), F_SETFL, 0) != 0) return failed(strerror(errno));
  if (!lock_patiently(made->file())) {
    return failed(errno == EWOULDBLOCK ? "in use by another server" : strerror(errno));
  }

  if (lba_size == 0) {
    made->format_ = stored_format(made->file());
  } else {
    const auto* const known =
        std::ranges::find_if(kLbaShifts, [&](unsigned shift) { return 1U << shift == lba_size; });
    if (known == kLbaShifts.end())
      return std::unexpected(fmt::format("blocks of {} bytes: 512 or 4096 are possible", lba_size));
    made->format_ = static_cast<unsigned>(known - kLbaShifts.begin());
  }
  if (made->blocks() == 0) return failed("too small for one block");
  if (const auto rest = made->size_ - (made->blocks() << made->lba_shift()); rest != 0) {
    spdlog::warn("nvme: {}: the last {} bytes are less than a block of {}, and not used", path,
                 rest, 1U << made->lba_shift());
  }
  made->cached_ = CachedFile(made->file(), made->size_);

  const std::uint64_t halves[2] = {fingerprint(fmt::format("{}/{}", identity, nsid)),
                                   fingerprint(fmt::format("{}\\{}", nsid, identity))};
  std::memcpy(made->uuid_.data(), halves, sizeof halves);
  made->uuid_[6] =
      static_cast<std::uint8_t>(0x80 | (made->uuid_[6] & 0x0f));  // RFC 9562, version 8
  made->uuid_[8] = static_cast<std::uint8_t>(0x80 | (made->uuid_[8] & 0x3f));
  return made;
}

std::uint64_t Namespace::used_blocks() const {
  struct stat status {};
  if (!regular_ || fstat(file(), &status) != 0) return blocks();
  return std::min(blocks(), (static_cast<std::uint64_t>(status.st_blocks) * 512) >> lba_shift());
}

void Namespace::set_format(unsigned format) {
  format_ = format;
  const char digit = static_cast<char>('0' + format);
  // Without extended attributes (or on a block device) `lba_size=` has to say it at the next start.
  static_cast<void>(fsetxattr(file(), kFormatAttribute, &digit, 1, 0) != 0);
}

}  // namespace uvfio::nvme
