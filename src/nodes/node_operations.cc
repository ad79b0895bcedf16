// Directories, links and what stat(2) says of all nodes.
#include <sys/statvfs.h>

#include <algorithm>
#include <cerrno>
#include <vector>

#include "nodes/fuse_operations.h"

namespace uvfio::nodes {
namespace {

mode_t type_bits(Kind kind) {
  switch (kind) {
    case Kind::directory:
      return S_IFDIR;
    case Kind::link:
      return S_IFLNK;
    case Kind::attribute:
    case Kind::device:  // FUSE cannot be asked about a real S_IFCHR: the kernel would look for its
                        // driver
      break;
  }
  return S_IFREG;
}

}  // namespace

struct stat FuseOperations::stat_of(const Node& node) const {
  struct stat info {};
  info.st_ino = nodes_.number(node);
  info.st_mode = type_bits(node.kind()) | node.mode();
  info.st_uid = node.uid();
  info.st_gid = node.gid();
  info.st_nlink = 1;
  info.st_blksize = 4096;
  info.st_atim = info.st_mtim = info.st_ctim = node.born();
  switch (node.kind()) {
    case Kind::directory:
      info.st_nlink = 2 + static_cast<const Directory&>(node).subdirectories();
      break;
    case Kind::link:
      break;  // sysfs reports 0, too
    case Kind::attribute:
      info.st_size = 4096;
      break;
    case Kind::device:
      info.st_size = static_cast<off_t>(static_cast<const DeviceNode&>(node).traits().size);
      break;
  }
  return info;
}

void FuseOperations::lookup(fuse_req_t request, fuse_ino_t parent, const char* name) {
  const std::shared_ptr<Node> directory = nodes_.find(parent);
  if (!directory || directory->kind() != Kind::directory) {
    fuse_reply_err(request, directory ? ENOTDIR : ENOENT);
    return;
  }
  const std::shared_ptr<Node> node = static_cast<const Directory&>(*directory).lookup(name);
  if (!node) {
    fuse_reply_err(request, ENOENT);
    return;
  }
  fuse_entry_param entry{};
  entry.ino = nodes_.number(*node);
  entry.attr = stat_of(*node);
  nodes_.remember(node);
  if (fuse_reply_entry(request, &entry) != 0) {
    nodes_.forget(entry.ino, 1);
  }
}

void FuseOperations::forget(fuse_req_t request, fuse_ino_t number, std::uint64_t lookups) {
  nodes_.forget(number, lookups);
  fuse_reply_none(request);
}

void FuseOperations::forget_multi(fuse_req_t request, std::size_t count,
                                  fuse_forget_data* forgets) {
  for (std::size_t i = 0; i < count; ++i) {
    nodes_.forget(forgets[i].ino, forgets[i].nlookup);
  }
  fuse_reply_none(request);
}

void FuseOperations::getattr(fuse_req_t request, fuse_ino_t number, fuse_file_info*) {
  const std::shared_ptr<Node> node = nodes_.find(number);
  if (!node) {
    fuse_reply_err(request, ENOENT);
    return;
  }
  const struct stat info = stat_of(*node);
  fuse_reply_attr(request, &info, 0);
}

void FuseOperations::setattr(fuse_req_t request, fuse_ino_t number, struct stat* attributes,
                             int to_set, fuse_file_info*) {
  const std::shared_ptr<Node> node = nodes_.find(number);
  if (!node) {
    fuse_reply_err(request, ENOENT);
    return;
  }
  // O_TRUNC does not come here (FUSE_CAP_ATOMIC_O_TRUNC), so this is truncate(2).
  if ((to_set & FUSE_SET_ATTR_SIZE) != 0 && node->kind() == Kind::device) {
    fuse_reply_err(request, EINVAL);
    return;
  }
  if ((to_set & FUSE_SET_ATTR_MODE) != 0) {
    node->set_mode(attributes->st_mode);
  }
  if ((to_set & FUSE_SET_ATTR_UID) != 0) {
    node->set_uid(attributes->st_uid);
  }
  if ((to_set & FUSE_SET_ATTR_GID) != 0) {
    node->set_gid(attributes->st_gid);
  }
  // Sizes of attributes, and times, are accepted and do nothing, as in sysfs.
  const struct stat info = stat_of(*node);
  fuse_reply_attr(request, &info, 0);
}

void FuseOperations::readlink(fuse_req_t request, fuse_ino_t number) {
  const std::shared_ptr<Node> node = nodes_.find(number);
  if (!node || node->kind() != Kind::link) {
    fuse_reply_err(request, node ? EINVAL : ENOENT);
    return;
  }
  fuse_reply_readlink(request, static_cast<const Link&>(*node).target().c_str());
}

void FuseOperations::opendir(fuse_req_t request, fuse_ino_t number, fuse_file_info*) {
  const std::shared_ptr<Node> node = nodes_.find(number);
  if (!node || node->kind() != Kind::directory) {
    fuse_reply_err(request, node ? ENOTDIR : ENOENT);
    return;
  }
  reply_open(request, std::make_shared<ListingHandle>(static_cast<const Directory&>(*node)), 0, 0);
}

void FuseOperations::readdir(fuse_req_t request, fuse_ino_t, std::size_t size, off_t offset,
                             fuse_file_info* file) {
  const auto& entries = static_cast<const ListingHandle&>(handle(file)).entries();
  std::vector<char> buffer(std::min<std::size_t>(size, 64 << 10));
  std::size_t used = 0;
  for (auto i = static_cast<std::size_t>(offset); i < entries.size(); ++i) {
    struct stat info {};
    info.st_ino = nodes_.number(entries[i].id);
    info.st_mode = type_bits(entries[i].kind);
    const std::size_t needed =
        fuse_add_direntry(request, buffer.data() + used, buffer.size() - used,
                          entries[i].name.c_str(), &info, static_cast<off_t>(i + 1));
    if (needed > buffer.size() - used) {
      break;
    }
    used += needed;
  }
  fuse_reply_buf(request, buffer.data(), used);
}

void FuseOperations::statfs(fuse_req_t request, fuse_ino_t) {
  struct statvfs info {};
  info.f_bsize = info.f_frsize = 4096;
  info.f_namemax = 255;
  fuse_reply_statfs(request, &info);
}

}  // namespace uvfio::nodes
