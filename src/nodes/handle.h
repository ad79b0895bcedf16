// What an open file or directory of the FUSE door keeps between requests.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

#include "nodes/tree.h"

namespace uvfio::nodes {

// Reached through fuse_file_info::fh, without a table. Thread-safe.
class Handle : public std::enable_shared_from_this<Handle> {
 public:
  virtual ~Handle() = default;

  // True: may take as long as a client likes, so it gets a thread of its own.
  [[nodiscard]] virtual bool slow_write() const { return false; }
  [[nodiscard]] virtual Result<std::size_t> read(std::uint64_t position, std::span<std::byte> data);
  [[nodiscard]] virtual Result<std::size_t> write(std::uint64_t position,
                                                  std::span<const std::byte> data);
  // nullptr: an attribute or a directory.
  [[nodiscard]] virtual OpenNode* node() const { return nullptr; }
  [[nodiscard]] virtual std::shared_ptr<OpenNode> share_node() const { return nullptr; }
};

// An open attribute: kernfs with sysfs' seq_file on top.
class AttributeHandle final : public Handle {
 public:
  explicit AttributeHandle(std::shared_ptr<AttributeNode> node) : node_(std::move(node)) {}
  bool slow_write() const override { return node_->slow(); }
  Result<std::size_t> read(std::uint64_t position, std::span<std::byte> data) override;
  Result<std::size_t> write(std::uint64_t position, std::span<const std::byte> data) override;

 private:
  const std::shared_ptr<AttributeNode> node_;
  std::mutex mutex_;
  bool shown_ = false;
  std::string text_;
};

// An open device node.
class DeviceHandle final : public Handle {
 public:
  explicit DeviceHandle(std::shared_ptr<OpenNode> node) : node_(std::move(node)) {}
  Result<std::size_t> read(std::uint64_t position, std::span<std::byte> data) override {
    return node_->read(position, data);
  }
  Result<std::size_t> write(std::uint64_t position, std::span<const std::byte> data) override {
    return node_->write(position, data);
  }
  OpenNode* node() const override { return node_.get(); }
  std::shared_ptr<OpenNode> share_node() const override { return node_; }

 private:
  const std::shared_ptr<OpenNode> node_;
};

// An open directory: its entries as they were when it was opened.
class ListingHandle final : public Handle {
 public:
  struct Entry {
    std::string name;
    std::uint64_t id;
    Kind kind;
  };
  explicit ListingHandle(const Directory& directory);
  [[nodiscard]] const std::vector<Entry>& entries() const { return entries_; }

 private:
  std::vector<Entry> entries_;
};

// Keeps what is open. Thread-safe.
class HandleTable {
 public:
  // The number is the handle's address.
  std::uint64_t keep(std::shared_ptr<Handle> handle);
  void drop(std::uint64_t number);
  void clear();

 private:
  std::mutex mutex_;
  std::unordered_map<const Handle*, std::shared_ptr<Handle>> handles_;
};

}  // namespace uvfio::nodes
