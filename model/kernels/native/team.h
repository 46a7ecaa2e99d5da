// Threads that work on one thing together, and how they wait for each other.
//
// Who waits spins before it sleeps: a wait is short where every thread has a core, and to be woken takes longer. Where a core
// has other work to do, the one that is waited for may sit behind the one that spins; then it is better to sleep at once. A
// team finds out which it is as it goes.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <memory>
#include <system_error>
#include <thread>
#include <vector>

#ifdef __linux__
#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace dyno {

inline void relax() {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#endif
}

// A number that threads wait to see changed.
class Signal {
  std::atomic<uint32_t> number{0}, sleepers{0};

  void sleep(uint32_t old) {
#ifdef __linux__
    syscall(SYS_futex, &number, FUTEX_WAIT_PRIVATE, old, nullptr, nullptr, 0);
#else
    (void)old, std::this_thread::yield();
#endif
  }

 public:
  uint32_t now() const { return number.load(std::memory_order_acquire); }

  // Whether somebody slept. Whoever goes to sleep is counted first and then looks at the number, here it is the other way
  // round: one sees the other.
  bool change() {
    number.fetch_add(1);
    if (sleepers.load() == 0) return false;
#ifdef __linux__
    syscall(SYS_futex, &number, FUTEX_WAKE_PRIVATE, INT32_MAX, nullptr, nullptr, 0);
#endif
    return true;
  }
  // Returns once it is no longer `old`; whether it was so within that many looks.
  bool wait(uint32_t old, int looks) {
    for (; looks > 0; --looks, relax())
      if (now() != old) return true;
    ++sleepers;
    while (number.load() == old) sleep(old);
    --sleepers;
    return false;
  }
};

// How long to spin, of a whole process: long as long as nearly all waits end meanwhile, else hardly at all, with a try now and
// then whether that has changed. Threads may overwrite what another has learned: it is learned again.
class Patience {
  static constexpr int LONG = 10000, SHORT = 50;             // looks; a long spin takes 150 us
  static constexpr int COST = 8, MOST = 64;                  // more than one wait in nine has failed
  static constexpr int SOONEST = 256, LATEST = 4096;         // times of working together between two tries
  static constexpr auto any = std::memory_order_relaxed;
  std::atomic<int> trouble{0}, passed{0}, pause{SOONEST};
  std::atomic<bool> wary{false};

 public:
  int looks() const { return wary.load(any) ? SHORT : LONG; }

  // A wait for threads that were awake has ended while it span, or not.
  void learn(bool soon) {
    if (wary.load(any)) return;
    const int found = std::max(0, trouble.load(any) + (soon ? -1 : COST));
    trouble.store(found, any);
    if (found > MOST)
      passed.store(0, any), wary.store(true, any);
    else if (found == 0)
      pause.store(SOONEST, any);
  }
  // They begin to work together. A try ends with the second wait that fails, and the next one comes later.
  void begin() {
    if (!wary.load(any) || passed.fetch_add(1, any) < pause.load(any)) return;
    pause.store(std::min(2 * pause.load(any), LATEST), any);
    trouble.store(MOST - COST, any), wary.store(false, any);
  }
};

inline Patience patience;

// A fixed number of threads, of which the one that calls is the first.
class Team {
  std::vector<std::thread> others;
  Signal begin, met;
  std::atomic<int> arrived{0};
  std::atomic<bool> awake{false};  // all of them, when they began: to be woken takes its time
  void (*call)(const void* body, Team& team, int index) = nullptr;  // null: it is over
  const void* body = nullptr;

  void serve(int index) {
    for (uint32_t seen = 0;; ++seen) {  // it is there for every one
      begin.wait(seen, patience.looks());
      if (!call) return;
      call(body, *this, index);
      meet();
    }
  }

 public:
  explicit Team(int threads) {
    others.reserve(threads - 1);
    try {
      for (int index = 1; index < threads; ++index) others.emplace_back([this, index] { serve(index); });
    } catch (const std::system_error&) {  // the system has no more threads: with those that are there
    }
  }
  Team(const Team&) = delete;
  ~Team() {
    call = nullptr;
    begin.change();
    for (std::thread& other : others) other.join();
  }

  int size() const { return 1 + int(others.size()); }

  // Until all have come.
  void meet() {
    const uint32_t now = met.now();
    if (arrived.fetch_add(1) + 1 == size()) {
      arrived.store(0);
      met.change();
    } else if (const bool soon = met.wait(now, patience.looks()); awake.load(std::memory_order_relaxed)) {
      patience.learn(soon);
    }
  }

  // body(team, index) on every thread; returns when all are done.
  template <typename Body>
  void run(const Body& own) {
    call = [](const void* body, Team& team, int index) { (*static_cast<const Body*>(body))(team, index); };
    body = &own;
    patience.begin();
    awake.store(true, std::memory_order_relaxed);
    if (begin.change()) awake.store(false, std::memory_order_relaxed);
    own(*this, 0);
    meet();
  }
};

// One of the threads that work together.
struct Member {
  Team* team;  // null: it is alone
  int index, count;

  // Until all have come; what they wrote before, all see.
  void meet() const {
    if (team) team->meet();
  }
  // Its part of `tasks`, one after another: each(task).
  template <typename Each>
  void part(int64_t tasks, Each each) const {
    const int64_t stop = tasks * (index + 1) / count;
    for (int64_t task = tasks * index / count; task < stop; ++task) each(task);
  }
};

// The calling thread's team of this size; it stays as long as the thread.
inline Team& team_of(int threads) {
  thread_local std::vector<std::unique_ptr<Team>> teams;  // by size
  if (int(teams.size()) <= threads) teams.resize(threads + 1);
  if (!teams[threads]) teams[threads] = std::make_unique<Team>(threads);
  return *teams[threads];
}

// body(member) on so many threads, the caller's own among them; returns when all are done.
template <typename Body>
void together(int threads, const Body& body) {
  if (threads <= 1) return body(Member{nullptr, 0, 1});
  team_of(threads).run([&](Team& team, int index) { body(Member{&team, index, team.size()}); });
}

}  // namespace dyno
