#include "nodes/private_ioctls.h"

#include "nodes/fuse_replies.h"
#include "nodes/handle.h"
#include "nodes/workers.h"

namespace uvfio::nodes {

Result<std::shared_ptr<OpenNode>> PrivateIoctls::ask(const Fd& fd, unsigned command) {
  const auto turn = self_.turn();
  Question question;
  {
    const std::lock_guard lock(mutex_);
    question_ = &question;
  }
  const auto asked = self_.ioctl(fd, command);
  const std::lock_guard lock(mutex_);
  question_ = nullptr;
  if (!asked) {
    return std::unexpected(asked.error());
  }
  return question.answer;
}

bool PrivateIoctls::answer(fuse_req_t request, unsigned command, const Handle& handle) {
  {
    const std::lock_guard lock(mutex_);
    if (fuse_req_ctx(request)->pid != self_.thread() || question_ == nullptr) {
      return false;
    }
    question_->answer = handle.share_node();
  }
  if (command == kPill) {
    WorkerPool::take_pill();
  }
  reply_ioctl(request, 0);
  return true;
}

}  // namespace uvfio::nodes
