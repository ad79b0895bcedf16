#include "nodes/handle.h"

#include <algorithm>
#include <cstring>

namespace uvfio::nodes {

Result<std::size_t> Handle::read(std::uint64_t, std::span<std::byte>) { return fail(EISDIR); }
Result<std::size_t> Handle::write(std::uint64_t, std::span<const std::byte>) {
  return fail(EISDIR);
}

Result<std::size_t> AttributeHandle::read(std::uint64_t position, std::span<std::byte> data) {
  const std::lock_guard lock(mutex_);
  if (node_->removed()) {
    return fail(ENODEV);
  }
  // A read from the start shows again, so that programs may keep the file open and lseek.
  if (position == 0 || !shown_) {
    auto text = node_->show();
    if (!text) {
      return std::unexpected(text.error());
    }
    text_ = std::move(*text);
    shown_ = true;
  }
  if (position >= text_.size()) {
    return 0;
  }
  const std::size_t count =
      std::min(data.size(), text_.size() - static_cast<std::size_t>(position));
  std::memcpy(data.data(), text_.data() + position, count);
  return count;
}

Result<std::size_t> AttributeHandle::write(std::uint64_t, std::span<const std::byte> data) {
  // The position does not matter, and what is too long is taken in part.
  const std::size_t count = std::min(data.size(), AttributeNode::kMaxStore);
  const auto stored = node_->store({reinterpret_cast<const char*>(data.data()), count});
  if (!stored) {
    return std::unexpected(stored.error());
  }
  return count;
}

ListingHandle::ListingHandle(const Directory& directory) {
  const std::shared_ptr<Directory> parent = directory.parent();
  entries_.push_back({".", directory.id(), Kind::directory});
  entries_.push_back({"..", parent ? parent->id() : directory.id(), Kind::directory});
  for (const auto& node : directory.list()) {
    entries_.push_back({node->name(), node->id(), node->kind()});
  }
}

std::uint64_t HandleTable::keep(std::shared_ptr<Handle> handle) {
  const Handle* const key = handle.get();
  const std::lock_guard lock(mutex_);
  handles_.emplace(key, std::move(handle));
  return reinterpret_cast<std::uint64_t>(key);
}

void HandleTable::drop(std::uint64_t number) {
  std::shared_ptr<Handle> last;  // goes after the lock
  const std::lock_guard lock(mutex_);
  const auto it = handles_.find(reinterpret_cast<const Handle*>(number));
  if (it != handles_.end()) {
    last = std::move(it->second);
    handles_.erase(it);
  }
}

void HandleTable::clear() {
  decltype(handles_) all;  // goes after the lock
  const std::lock_guard lock(mutex_);
  all.swap(handles_);
}

}  // namespace uvfio::nodes
