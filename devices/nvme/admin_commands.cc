#include "devices/nvme/admin_commands.h"

#include <algorithm>
#include <utility>

#include "devices/nvme/registers.h"

namespace uvfio::nvme {
namespace {

// Identify, figure 242.
using CnsField = Bits<7, 0>;
using ControllerId = Bits<31, 16>;
// Get Log Page, figures 187 to 189.
using PageId = Bits<7, 0>;
using RetainEvent = Bits<15>;
using DwordsLow = Bits<31, 16>;
using DwordsHigh = Bits<15, 0>;
// Get Features, figure 177.
using FeatureField = Bits<7, 0>;
using SelectField = Bits<10, 8>;
// Format NVM, figure 331.
using FormatIndex = Bits<3, 0>;
using FormatProtection = Bits<8, 4>;  // metadata settings and protection information
using FormatErase = Bits<11, 9>;

}  // namespace

void AdminCommands::connect(vfio::Dma dma, std::uint32_t configuration) {
  dma_ = std::move(dma);
  configuration_ = configuration;
  page_size_ = std::uint64_t{1} << (kMinPageShift + cc::Mps::get(configuration));
}

void AdminCommands::disconnect() {
  dma_ = {};
  changed_namespaces_.clear();
}

void AdminCommands::execute(Request& request) {
  const Outcome outcome = start(request);
  if (!outcome) return;
  request.status = *outcome;
  parts_.finished(request);
}

AdminCommands::Outcome AdminCommands::start(Request& request) {
  const Command& command = request.command;
  // Admin commands have PRPs.
  if (Fuse::get(command.flags) != 0 || Psdt::get(command.flags) != 0)
    return CommandStatus::invalid_field;
  switch (static_cast<AdminOpcode>(command.opcode)) {
    case AdminOpcode::delete_sq:
      return delete_submission_queue(request);
    case AdminOpcode::create_sq:
      return create_submission_queue(command);
    case AdminOpcode::get_log_page:
      return get_log_page(command);
    case AdminOpcode::delete_cq:
      return delete_completion_queue(command);
    case AdminOpcode::create_cq:
      return create_completion_queue(command);
    case AdminOpcode::identify:
      return identify(command);
    case AdminOpcode::abort:
      return abort(request);
    case AdminOpcode::set_features:
      return set_features(request);
    case AdminOpcode::get_features:
      return get_features(request);
    case AdminOpcode::async_event_request:
      if (!parts_.events.ask(request, kEventRequestLimit))
        return CommandStatus::event_request_limit_exceeded;
      return std::nullopt;
    case AdminOpcode::doorbell_buffer_config:
      return configure_doorbell_buffer(command);
    case AdminOpcode::format_nvm:
      return format(request);
  }
  return CommandStatus::invalid_opcode;
}

CommandStatus AdminCommands::send(const Command& command, std::span<const std::byte> data) {
  if (data.empty()) return CommandStatus::success;
  std::vector<Segment> segments;
  const CommandStatus status = find_data(dma_, command, data.size(), page_size_, segments);
  if (status != CommandStatus::success) return status;
  return copy_to_host(dma_, segments, data) ? CommandStatus::success
                                            : CommandStatus::data_transfer_error;
}

CommandStatus AdminCommands::identify(const Command& command) {
  const Namespace* const target = parts_.io.find(command.nsid);
  switch (static_cast<Cns>(CnsField::get(command.cdw10))) {
    case Cns::controller:
      return send(command, identify_controller(parts_.identity, parts_.namespaces));
    case Cns::name_space:
      if (command.nsid == kAllNamespaces) return send(command, identify_any_namespace());
      if (target == nullptr) return CommandStatus::invalid_namespace;
      return send(command, identify_namespace(*target));
    case Cns::active_namespaces:
      if (command.nsid >= 0xfffffffe) return CommandStatus::invalid_namespace;
      return send(command, active_namespaces(parts_.namespaces, command.nsid));
    case Cns::namespace_descriptors:
      if (target == nullptr) return CommandStatus::invalid_namespace;
      return send(command, namespace_descriptors(*target));
  }
  return CommandStatus::invalid_field;
}

CommandStatus AdminCommands::get_log_page(const Command& command) {
  const std::uint64_t dwords =
      (std::uint64_t{DwordsHigh::get(command.cdw11)} << 16 | DwordsLow::get(command.cdw10)) + 1;
  const std::uint64_t offset = std::uint64_t{command.cdw13} << 32 | command.cdw12;
  const auto id = static_cast<LogPage>(PageId::get(command.cdw10));
  if ((offset & 3) != 0) return CommandStatus::invalid_field;
  if (dwords * 4 > kMaxTransfer) return CommandStatus::invalid_field;

  std::vector<std::byte> page;
  switch (id) {
    case LogPage::errors:
      page = error_page(parts_.errors);
      break;
    case LogPage::health:
      // There is none for a single namespace.
      if (command.nsid != 0 && command.nsid != kAllNamespaces) return CommandStatus::invalid_field;
      page = health_page(parts_.health, parts_.errors, parts_.features);
      break;
    case LogPage::firmware_slots:
      page = firmware_page();
      break;
    case LogPage::changed_namespaces:
      page = changed_namespaces_page(changed_namespaces_);
      break;
    case LogPage::effects:
      page = effects_page();
      break;
    default:
      return CommandStatus::invalid_log_page;
  }
  if (offset >= page.size()) return CommandStatus::invalid_field;
  page.erase(page.begin(), page.begin() + static_cast<std::ptrdiff_t>(offset));
  page.resize(dwords * 4);
  const CommandStatus status = send(command, page);
  if (status == CommandStatus::success && RetainEvent::get(command.cdw10) == 0) {
    if (id == LogPage::changed_namespaces) changed_namespaces_.clear();
    parts_.events.page_read(id);
  }
  return status;
}

CommandStatus AdminCommands::set_features(Request& request) {
  const auto done = parts_.features.set(request.command, parts_.queues.any_io_queue());
  if (!done) return done.error();
  request.result = *done;
  const auto id = static_cast<FeatureId>(FeatureField::get(request.command.cdw10));
  if (id == FeatureId::temperature_threshold || id == FeatureId::async_event_configuration)
    check_temperature();
  return CommandStatus::success;
}

void AdminCommands::check_temperature() {
  if (parts_.features.over_temperature() && parts_.features.event_enabled(kEventOverTemperature))
    parts_.events.happened(kTemperatureThreshold);
}

CommandStatus AdminCommands::get_features(Request& request) {
  const Command& command = request.command;
  const auto value = parts_.features.get(
      static_cast<std::uint8_t>(FeatureField::get(command.cdw10)),
      static_cast<Features::Select>(SelectField::get(command.cdw10)), command.cdw11, command.nsid);
  if (!value) return value.error();
  request.result = *value;
  return CommandStatus::success;
}

// Only event requests can be taken back; what the file system has begun, it ends soon.
CommandStatus AdminCommands::abort(Request& request) {
  const auto sq_id = static_cast<std::uint16_t>(request.command.cdw10);
  const auto cid = static_cast<std::uint16_t>(request.command.cdw10 >> 16);
  request.result = 1;  // not aborted
  if (parts_.queues.submission(sq_id) == nullptr || sq_id != 0) return CommandStatus::success;
  if (Request* const aborted = parts_.events.abort(cid)) {
    aborted->status = CommandStatus::abort_requested;
    parts_.finished(*aborted);
    request.result = 0;
  }
  return CommandStatus::success;
}

CommandStatus AdminCommands::configure_doorbell_buffer(const Command& command) {
  for (const std::uint64_t page : command.dptr) {
    if ((page & (page_size_ - 1)) != 0) return CommandStatus::invalid_prp_offset;
  }
  auto dma = parts_.new_dma();
  if (!dma) return CommandStatus::data_transfer_error;
  // Both have to be there now, at least.
  std::uint32_t word = 0;
  for (const std::uint64_t page : command.dptr) {
    if (!dma->read(page, std::as_writable_bytes(std::span(&word, 1))))
      return CommandStatus::data_transfer_error;
  }
  parts_.queues.use_shadow(std::move(*dma), command.dptr[0], command.dptr[1]);
  return CommandStatus::success;
}

AdminCommands::Outcome AdminCommands::format(Request& request) {
  const Command& command = request.command;
  const unsigned format = FormatIndex::get(command.cdw10);
  if (format >= kLbaShifts.size() || FormatProtection::get(command.cdw10) != 0)
    return CommandStatus::invalid_format;
  if (FormatErase::get(command.cdw10) > 1) return CommandStatus::invalid_field;
  bool any = false;
  for (const auto& each : parts_.namespaces) {
    if (command.nsid != kAllNamespaces && command.nsid != each->id()) continue;
    any = true;
    if (each->size() >> kLbaShifts[format] == 0) return CommandStatus::invalid_format;
  }
  if (!any) return CommandStatus::invalid_namespace;
  parts_.io.format(request, format);
  return std::nullopt;
}

void AdminCommands::completed(const Request& request) {
  if (static_cast<AdminOpcode>(request.command.opcode) != AdminOpcode::format_nvm ||
      request.status != CommandStatus::success)
    return;
  for (const auto& each : parts_.namespaces) {
    if (request.command.nsid == kAllNamespaces || request.command.nsid == each->id())
      changed_namespaces_.insert(each->id());
  }
  if (parts_.features.event_enabled(kEventNamespaceAttributes))
    parts_.events.happened(kNamespaceAttributes);
}

}  // namespace uvfio::nvme
