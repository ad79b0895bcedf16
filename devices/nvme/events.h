// Asynchronous events (section 5.2): what has happened, and the host's requests to be told.
#pragma once

#include <algorithm>
#include <cstdint>
#include <deque>
#include <functional>

#include "devices/nvme/log_pages.h"
#include "devices/nvme/request.h"

namespace uvfio::nvme {

struct Event {
  enum class Type : std::uint8_t { error = 0, health = 1, notice = 2 };
  Type type = Type::error;
  std::uint8_t information = 0;
  LogPage page = LogPage::errors;  // which says more
  bool operator==(const Event&) const = default;
};

inline constexpr Event kInvalidDoorbellRegister{Event::Type::error, 0, LogPage::errors};
inline constexpr Event kInvalidDoorbellValue{Event::Type::error, 1, LogPage::errors};
inline constexpr Event kTemperatureThreshold{Event::Type::health, 1, LogPage::health};
inline constexpr Event kNamespaceAttributes{Event::Type::notice, 0, LogPage::changed_namespaces};

// After an event its type is silent until the host has read the log page. One thread's.
class Events {
 public:
  explicit Events(std::function<void(Request&)> finished) : finished_(std::move(finished)) {}

  // False: the host has as many requests as it may have.
  [[nodiscard]] bool ask(Request& request, std::size_t limit) {
    if (requests_.size() >= limit) return false;
    requests_.push_back(&request);
    deliver();
    return true;
  }
  void happened(const Event& event) {
    if (std::ranges::find(pending_, event) == pending_.end()) pending_.push_back(event);
    deliver();
  }
  void page_read(LogPage page) {
    for (auto& type : silent_) {
      if (type == page) type = LogPage{};
    }
    deliver();
  }
  // Takes back the request with this command id; nullptr: there is none.
  Request* abort(std::uint16_t cid) {
    const auto found = std::ranges::find_if(
        requests_, [&](const Request* each) { return each->command.cid == cid; });
    if (found == requests_.end()) return nullptr;
    Request* const request = *found;
    requests_.erase(found);
    return request;
  }
  // Forgets everything; `drop` gets each request.
  template <typename Drop>
  void reset(Drop&& drop) {
    for (Request* request : requests_) drop(*request);
    requests_.clear();
    pending_.clear();
    silent_ = {};
  }

 private:
  void deliver() {
    for (auto event = pending_.begin(); event != pending_.end() && !requests_.empty();) {
      LogPage& silent = silent_[static_cast<std::size_t>(event->type)];
      if (silent != LogPage{}) {
        ++event;
        continue;
      }
      silent = event->page;
      Request& request = *requests_.front();
      requests_.pop_front();
      request.result = static_cast<std::uint32_t>(event->type) |
                       std::uint32_t{event->information} << 8 |
                       static_cast<std::uint32_t>(event->page) << 16;
      event = pending_.erase(event);
      finished_(request);
    }
  }

  std::function<void(Request&)> finished_;
  std::deque<Request*> requests_;
  std::deque<Event> pending_;
  std::array<LogPage, 3> silent_{};  // by type: the page to be read first
};

}  // namespace uvfio::nvme
