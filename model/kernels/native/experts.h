// A mixture's experts: tokens are put beside each other expert by expert, so that each touched expert's weights are read
// once, and every thread takes turns at panels of any of them.
#pragma once

#include "block.h"

namespace dyno {

struct Experts {
  const Weight *up, *down;  // one for each expert, all of one shape
  int64_t count, active, activation, gated, hidden, weigh_input;
};

// Which choices fell on which expert, in order of the tokens. A choice is token * active + rank; negative experts are none.
struct Groups {
  const int64_t* chosen;
  std::vector<int64_t> choices, starts, touched, place;  // place: of a choice in its group; -1 for none
  std::vector<int64_t> rooms;                            // rows of operands before an expert's, and of all

  Groups(const Experts& e, int64_t tokens, const int64_t* chosen)
      : chosen(chosen), choices(tokens * e.active), starts(e.count + 1), place(tokens * e.active, -1), rooms(e.count + 1) {
    for (int64_t c = 0; c < tokens * e.active; ++c)
      if (chosen[c] >= 0) place[c] = starts[chosen[c] + 1]++;
    for (int64_t i = 0; i < e.count; ++i) {
      if (starts[i + 1]) touched.push_back(i);
      rooms[i + 1] = rooms[i] + (starts[i + 1] + TILE - 1) / TILE * TILE;
      starts[i + 1] += starts[i];
    }
    for (int64_t c = 0; c < tokens * e.active; ++c)
      if (chosen[c] >= 0) choices[starts[chosen[c]] + place[c]] = c;
  }
  int64_t size(int64_t expert) const { return starts[expert + 1] - starts[expert]; }

  template <typename X>
  Operand<X> operand(typename Operand<X>::Number* data, int64_t depth, bool rounds, int64_t expert) const {
    return {data + Operand<X>::size(rooms[expert], depth, rounds), depth, size(expert), rounds};
  }
};

// A thread's share of one layer of all touched experts; `end` makes the ending for an expert.
template <typename X, typename End>
void share_all(const Groups& groups, const Weight* weights, typename Operand<X>::Number* rows, int64_t depth,
               std::atomic<int64_t>& turn, const Member& me, End end) {
  const int64_t count = weights[0].count();
  const bool rounds = weights[0].rounds;
  if (rounds) {
    const int64_t choices = groups.place.size();
    me.part(depth / GROUP * choices, [&](int64_t task) {
      const int64_t c = task % choices, g = task / choices;
      if (groups.place[c] < 0) return;
      const Operand<X> own = groups.operand<X>(rows, depth, true, groups.chosen[c]);
      RoundedRows<X>{own}.round(groups.place[c], g);
    });
    me.meet();
  }
  const int64_t chunk = std::max<int64_t>(count * int64_t(groups.touched.size()) / (me.count * 8) / 4, 1) * 4;
  const int64_t chunks = (count + chunk - 1) / chunk, tasks = chunks * groups.touched.size();
  const auto take = [&] { return turn.fetch_add(1, std::memory_order_relaxed); };
  const auto ahead = [&](int64_t task) {
    if (task >= tasks) return Ahead{};
    const int64_t expert = groups.touched[task / chunks];
    return weights[expert].template ahead<X>(task % chunks * chunk, groups.operand<X>(rows, depth, rounds, expert).blocks);
  };
  for (int64_t task = take(), next; task < tasks; task = next) {
    next = take();
    const int64_t expert = groups.touched[task / chunks], from = task % chunks * chunk;
    const Operand<X> own = groups.operand<X>(rows, depth, rounds, expert);
    share_part<X>(weights[expert], own, from, std::min(from + chunk, count), ahead(next), end(expert));
  }
}

// x (tokens, width), chosen and gates (tokens, active) → out (tokens, width), the weighted sum in order of choice.
template <typename X>
void mix(const Experts& e, int64_t tokens, const X* x, const int64_t* chosen, const float* gates, X* out, int threads) {
  const int64_t width = e.up[0].depth, choices = tokens * e.active;
  const Groups groups(e, tokens, chosen);
  using Number = typename Operand<X>::Number;
  const bool rounds = e.up[0].rounds, rounds_hidden = e.down[0].rounds;
  Number* taken = room<Number>(Operand<X>::size(groups.rooms.back(), width, rounds), 0);
  Number* hidden = room<Number>(Operand<X>::size(groups.rooms.back(), e.hidden, rounds_hidden), 1);
  float* results = room<float>(choices * width, 2);
  const Parts parts(width, threads);
  std::atomic<int64_t> turns[2] = {};
  together(threads, [&](const Member& me) {
    me.part(int64_t(groups.touched.size()) * parts.count, [&](int64_t task) {  // columns of their own, as write_rows() has it
      const int64_t expert = groups.touched[task / parts.count], part = task % parts.count;
      const Operand<X> own = groups.operand<X>(taken, width, rounds, expert);
      for (int64_t row = 0; row < groups.size(expert); ++row) {
        const int64_t c = groups.choices[groups.starts[expert] + row];
        const Vec scale = all(e.weigh_input ? gates[c] : 1.0f);
        const auto pen = own.pen(row);
        for (int64_t i = parts.start(part); i < parts.stop(part); i += 16) pen.put(i, scale * load(x + c / e.active * width + i));
      }
    });
    me.meet();
    share_all<X>(groups, e.up, taken, width, turns[0], me, [&](int64_t expert) {
      return [&e, into = groups.operand<X>(hidden, e.hidden, rounds_hidden, expert)](int64_t row, int64_t panel, Vec a, Vec b) {
        e.gated ? Gate<X>{into, e.activation}(row, panel, a, b) : Activate<X>{into, e.activation}(row, panel, a, b);
      };
    });
    me.meet();
    share_all<X>(groups, e.down, hidden, e.hidden, turns[1], me, [&](int64_t expert) {
      const int64_t* mine = groups.choices.data() + groups.starts[expert];
      return [=](int64_t row, int64_t panel, Vec a, Vec b) { Place<float>{results, width}(mine[row], panel, a, b); };
    });
    me.meet();
    me.part(tokens, [&](int64_t token) {
      for (int64_t i = 0; i < width; i += 16) {
        Vec sum = zero();
        for (int64_t c = token * e.active; c < (token + 1) * e.active; ++c)
          if (chosen[c] >= 0)
            sum = fma(all(e.weigh_input ? 1.0f : gates[c]), load(results + c * width + i), sum);
        store(out + token * width + i, sum);
      }
    });
  });
}

}  // namespace dyno
