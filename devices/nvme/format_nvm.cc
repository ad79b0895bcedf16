// Format NVM (section 5.23): waits until nobody uses the namespace, empties it, and changes its LBA
// format.
#include "devices/nvme/io_commands.h"

namespace uvfio::nvme {

bool IoCommands::formats(const Namespace& target) const {
  const std::uint32_t nsid = format_.request->command.nsid;
  return nsid == kAllNamespaces || nsid == target.id();
}

void IoCommands::format(Request& request, unsigned format) {
  request.engine = this;
  if (format_.request != nullptr) {
    request.status = CommandStatus::format_in_progress;
    return finished_(request);
  }
  format_ = {.request = &request, .format = format};
  for (const auto& each : namespaces_) {
    if (formats(*each)) each->formatting = true;
  }
  begin_format();
}

void IoCommands::begin_format() {
  Request& request = *format_.request;
  for (const auto& each : namespaces_) {
    if (formats(*each) && each->in_flight != 0) return;
  }
  format_.begun = true;
  request.next = &IoCommands::format_punched;
  for (const auto& each : namespaces_) {
    if (formats(*each)) punch(request, *each, 0, each->size());
  }
}

CommandStatus IoCommands::format_punched(Request& request) {
  // Where there are no holes the old data stays, as the standard allows for a format without
  // erasure; with erasure it has to be said.
  const bool erase = Bits<11, 9>::get(request.command.cdw10) != 0;
  if (request.error == EOPNOTSUPP && !erase) request.error = 0;
  if (request.error != 0) return format_done(request);
  request.next = &IoCommands::format_done;
  for (const auto& each : namespaces_) {
    if (formats(*each)) sync(request, *each);
  }
  return CommandStatus::success;
}

CommandStatus IoCommands::format_done(Request& request) {
  for (const auto& each : namespaces_) {
    if (!formats(*each)) continue;
    each->formatting = false;
    if (request.error == 0) each->set_format(format_.format);
  }
  format_ = {};
  return request.error == 0 ? CommandStatus::success : status_of(request);
}

}  // namespace uvfio::nvme
