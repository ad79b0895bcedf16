// Another process's memory, by copy.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

#include "memory/vma.h"
#include "uvfio/error.h"
#include "uvfio/fd.h"

namespace uvfio::memory {

// The address space behind /proc/<pid>/mem. Both descriptors stay tied to it, whatever becomes of
// the process: once its last user is gone, reads return 0 bytes, which is how ESRCH is told.
// Thread-safe.
//
// Why not process_vm_readv, which is quicker for large copies? It goes by pid. A client may die at
// any moment, and a check before the call does not keep its pid from being recycled before the
// copy: a device would write into a stranger. Also, a page that the client watches with userfaultfd
// makes it wait for the client, while /proc/<pid>/mem fails at once.
//
// What /proc/<pid>/mem lacks is respect for page protections: it can break copy-on-write in
// read-only private memory like a debugger, and read PROT_NONE. Hence the check before each copy. A
// client that changes its protections in between only fools itself: the forced write never reaches
// a shared mapping without write permission, so at worst it alters private pages of the client's
// own.
class RemoteMemory {
 public:
  // `directory` is a descriptor of /proc/<pid>. ESRCH; EACCES: not ours to look into; EMFILE and
  // such.
  [[nodiscard]] static Result<RemoteMemory> open(int directory);
  RemoteMemory(RemoteMemory&& other) noexcept
      : mem_(std::move(other.mem_)), maps_(std::move(other.maps_)) {}

  [[nodiscard]] bool alive() const;
  [[nodiscard]] const VmaReader& maps() const { return *maps_; }

  // EFAULT, ESRCH; what precedes a fault may have been copied.
  [[nodiscard]] Status read(std::uint64_t vaddr, std::span<std::byte> data) const;
  [[nodiscard]] Status write(std::uint64_t vaddr, std::span<const std::byte> data) const;

  // Is there memory behind this byte, whose mapping is known to be shared and readable or writable?
  // It is faulted in. EFAULT: no, such as behind the end of a file.
  [[nodiscard]] Status probe(std::uint64_t vaddr) const;

 private:
  RemoteMemory(Fd mem, std::unique_ptr<VmaReader> maps)
      : mem_(std::move(mem)), maps_(std::move(maps)) {}

  Fd mem_;
  std::unique_ptr<VmaReader> maps_;
};

// What to report when a file of /proc/<pid> does not open.
[[nodiscard]] int proc_error(int error);

// Opens /proc/<pid> as a directory descriptor. ESRCH.
[[nodiscard]] Result<Fd> open_proc_directory(pid_t pid);

}  // namespace uvfio::memory
