// Several callers at once, each with teams of one to five threads that take three turns over the same numbers.
#include <cstdio>
#include <thread>
#include <vector>

#include "team.h"

using namespace dyno;

constexpr int64_t COUNT = 257;

static bool called(unsigned random) {
  for (int64_t k = 0; k < 3000; ++k) {
    random = random * 1103515245 + 12345;
    const int threads = 1 + (random >> 16) % 5, late = (random >> 8) % 8;
    std::vector<int64_t> first(COUNT), second(COUNT);
    together(threads, [&](const Member& me) {
      me.part(COUNT, [&](int64_t i) { first[i] = i * k; });
      me.meet();
      if (late == me.index) std::this_thread::yield();
      me.part(COUNT, [&](int64_t i) { second[i] = first[COUNT - 1 - i]; });
      me.meet();
      me.part(COUNT, [&](int64_t i) { first[i] = second[COUNT - 1 - i] + 1; });
    });
    for (int64_t i = 0; i < COUNT; ++i)
      if (first[i] != i * k + 1) return false;
  }
  return true;
}

int main() {
  std::vector<std::thread> callers;
  std::vector<char> right(4);
  for (unsigned i = 1; i < 4; ++i) callers.emplace_back([&right, i] { right[i] = called(i); });
  right[0] = called(9);
  for (std::thread& caller : callers) caller.join();
  for (char one : right)
    if (!one) return 1;
  std::puts("right");
}
