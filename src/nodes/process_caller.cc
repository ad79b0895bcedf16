#include "nodes/process_caller.h"

#include <fcntl.h>
#include <spdlog/spdlog.h>

#include "nodes/close_aside.h"
#include "nodes/open_vfio.h"

namespace uvfio::nodes {
namespace {

// What a kernel's copy_from_user can say: the thread is there, so what failed is the address.
Status or_efault(Status status) {
  if (!status) {
    static std::atomic<bool> said = false;
    if ((status.error() == Errno{EACCES} || status.error() == Errno{EPERM}) &&
        !said.exchange(true)) {
      spdlog::error(
          "nodes: the memory of a client may not be accessed: run uvfio with CAP_SYS_PTRACE, or "
          "set kernel.yama.ptrace_scope to 0 or 1");
    }
    return fail(EFAULT);
  }
  return status;
}

// A name of a file, which is not open (fdget).
bool is_path(const Fd& file) { return (fcntl(file.get(), F_GETFL) & O_PATH) != 0; }

}  // namespace

Result<Fd> ProcessCaller::get(int fd) {
  auto file = memory::duplicate_from_thread(thread_, fd);
  if (!file) {
    return fail(file.error() == Errno{EMFILE} || file.error() == Errno{ENFILE} ? value(file.error())
                                                                               : EBADF);
  }
  if (is_path(*file)) {
    close_aside(std::move(*file));
    return fail(EBADF);
  }
  if (clients_.server.owns(*file)) {
    // Nothing that a model wants. And closing it is a request to ourselves, so not from here.
    close_aside(std::move(*file));
    return fail(EINVAL);
  }
  return file;
}

Status ProcessCaller::copy_in(std::uint64_t user, std::span<std::byte> data) {
  return or_efault(memory::copy_from_thread(thread_, user, data));
}

Status ProcessCaller::copy_out(std::uint64_t user, std::span<const std::byte> data) {
  return or_efault(memory::copy_to_thread(thread_, user, data));
}

// What of ours `fd` is. EBADF: not open. EBADFD: somebody else's file.
Result<std::shared_ptr<OpenNode>> ProcessCaller::node(int fd) {
  auto file = memory::duplicate_from_thread(thread_, fd);
  if (!file) {
    return fail(EBADF);
  }
  if (!clients_.server.owns(*file)) {
    const int error = is_path(*file) ? EBADF : EBADFD;
    close_aside(std::move(*file));
    return fail(error);
  }
  return clients_.server.identify(*file);
}

Result<std::shared_ptr<vfio::Container>> ProcessCaller::container(int fd) {
  const auto found = node(fd);
  if (!found) {
    return std::unexpected(found.error());
  }
  const auto* container = dynamic_cast<const OpenContainer*>(found->get());
  if (container == nullptr) {
    return fail(EBADFD);
  }
  return container->container();
}

Result<std::shared_ptr<vfio::GroupFile>> ProcessCaller::group(int fd) {
  const auto found = node(fd);
  if (!found) {
    return fail(found.error() == Errno{EBADFD} ? EINVAL : value(found.error()));
  }
  const auto* group = dynamic_cast<const OpenGroup*>(found->get());
  if (group == nullptr) {
    return fail(EINVAL);
  }
  return group->group();
}

Result<std::shared_ptr<memory::AddressSpace>> ProcessCaller::address_space() {
  auto space = clients_.processes.acquire(thread_);
  if (space) space_ = *space;
  return space;
}

bool ProcessCaller::can_lock_memory() { return memory::thread_can_lock_memory(thread_); }

std::unexpected<Errno> ProcessCaller::refuse_install() {
  if (!clients_.install_refused.exchange(true)) {
    spdlog::error(
        "nodes: thread {} asked for a device's descriptor, which only works in programs that were "
        "started by `uvfio run -- PROGRAM`",
        thread_);
  }
  return fail(EOPNOTSUPP);
}

Result<int> ProcessCaller::install(std::shared_ptr<vfio::DeviceFile>) { return refuse_install(); }
Result<int> ProcessCaller::install(std::shared_ptr<vfio::MigrationStream>, bool) {
  return refuse_install();
}

}  // namespace uvfio::nodes
