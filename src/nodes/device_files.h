// Descriptors for devices and migration streams: files that nobody can open by name.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <mutex>

#include "nodes/process_caller.h"
#include "nodes/tree.h"
#include "uvfio/fd.h"
#include "uvfio/vfio.h"

namespace uvfio::nodes {

// Opens nodes of a hidden directory on behalf of clients. An open counts only with a ticket, which
// says what is to be opened, and by our SelfClient; all others get ENXIO, as from the kernel's
// anonymous inodes. Thread-safe.
class DeviceFiles {
 public:
  DeviceFiles(Clients& clients, std::shared_ptr<Directory> directory);

  // All files of one device share one node: the kernel maps one backing file per inode.
  [[nodiscard]] Result<Fd> open_device(std::shared_ptr<vfio::DeviceFile> file);
  [[nodiscard]] Result<Fd> open_stream(std::shared_ptr<vfio::MigrationStream> stream,
                                       bool readable);

 private:
  class Place;
  Result<std::shared_ptr<Place>> make_place(DeviceNode::Traits traits, const Fd* backing);
  Result<Fd> open(const Place& place, std::shared_ptr<OpenNode> file, int flags);

  Clients& clients_;
  const std::shared_ptr<Directory> directory_;
  std::mutex mutex_;
  std::uint64_t next_name_ = 0;
  std::map<const vfio::Device*, std::weak_ptr<Place>> devices_;
  std::shared_ptr<OpenNode> ticket_;  // what the open under way is for
};

}  // namespace uvfio::nodes
