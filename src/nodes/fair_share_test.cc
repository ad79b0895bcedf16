#include "nodes/fair_share.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>

namespace uvfio::nodes {
namespace {

// Processes that do nothing but be there.
class FairShareTest : public testing::Test {
 protected:
  void SetUp() override {
    for (pid_t& client : clients_) {
      client = fork();
      if (client == 0) {
        for (;;) pause();
      }
    }
  }
  void TearDown() override {
    for (const pid_t client : clients_) {
      kill(client, SIGKILL);
      waitpid(client, nullptr, 0);
    }
  }
  // How many requests of a client are admitted before the first that is not.
  static int fill(FairShare<int>& share, pid_t client) {
    int admitted = 0;
    while (share.admit(client, [&] { return admitted; })) ++admitted;
    return admitted;
  }
  std::array<pid_t, 4> clients_{};
};

TEST_F(FairShareTest, NobodyGetsTheLastThreads) {
  FairShare<int> share(32);
  EXPECT_EQ(fill(share, clients_[0]), 16);
  EXPECT_EQ(fill(share, clients_[1]), 8);
  EXPECT_EQ(fill(share, clients_[2]), 4);
  EXPECT_EQ(fill(share, clients_[3]), 2);
}

TEST_F(FairShareTest, OneThreadServesEverybodyInTurn) {
  FairShare<int> share(1);
  ASSERT_TRUE(share.admit(clients_[0], [] { return 0; }));
  EXPECT_FALSE(share.admit(clients_[0], [] { return 1; }));
  EXPECT_FALSE(share.admit(clients_[1], [] { return 2; }));
  const auto first = share.finish(clients_[0]);
  ASSERT_TRUE(first);
  const auto second = share.finish(first->first);
  ASSERT_TRUE(second);
  EXPECT_EQ(first->second + second->second, 3);
  EXPECT_FALSE(share.finish(second->first));
  EXPECT_TRUE(share.admit(clients_[0], [] { return 0; }));
}

TEST_F(FairShareTest, WhatWaitsComesInOrderWhenThereIsRoom) {
  FairShare<int> share(4);
  ASSERT_EQ(fill(share, clients_[0]), 2);  // and the third waits
  EXPECT_FALSE(share.admit(clients_[0], [] { return 3; }));
  auto next = share.finish(clients_[0]);
  ASSERT_TRUE(next);
  EXPECT_EQ(next->second, 2);
  // Others are not held up by what waits.
  EXPECT_TRUE(share.admit(clients_[1], [] { return 0; }));
  EXPECT_FALSE(share.finish(clients_[1]));  // the first client has its share
  next = share.finish(clients_[0]);
  ASSERT_TRUE(next);
  EXPECT_EQ(next->second, 3);
}

TEST_F(FairShareTest, WeAreNoClient) {
  FairShare<int> share(4);
  fill(share, clients_[0]);
  for (int i = 0; i < 10; ++i) EXPECT_TRUE(share.admit(getpid(), [] { return 0; }));
}

}  // namespace
}  // namespace uvfio::nodes
