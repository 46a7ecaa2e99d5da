// A mixture's experts: tokens are put beside each other expert by expert, so that each touched expert's weights are read
// once, and every thread takes turns at panels of any of them.
#pragma once

#include "after.h"

namespace dyno {

struct Experts {
  const Weight *up, *down;      // one for each expert, all of one shape
  const Norm *before, *after;  // of what they see, of what they give together; null: none
  Activating activation;
  int64_t count, active, gated, hidden, weigh_input;
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

// One layer of all touched experts, for share_all().
template <typename X>
struct Touched {
  const Groups& groups;
  const Weight* weights;
  typename Operand<X>::Number* data;

  int64_t count() const { return groups.touched.size(); }
  const Weight& weight(int64_t i) const { return weights[groups.touched[i]]; }
  Operand<X> rows(int64_t i) const { return of(groups.touched[i]); }
  Operand<X> of(int64_t expert) const { return groups.operand<X>(data, weights->depth, weights->rounds, expert); }
  int64_t total() const { return groups.starts.back(); }
  std::pair<Operand<X>, int64_t> row(int64_t i) const {
    const int64_t choice = groups.choices[i];
    return {of(groups.chosen[choice]), groups.place[choice]};
  }
};

// x (tokens, width), chosen and gates (tokens, active) → out (tokens, width), the weighted sum in order of choice.
template <typename X>
void mix(const Experts& e, int64_t tokens, const X* x, const int64_t* chosen, const float* gates, X* out, int threads) {
  const int64_t width = e.up[0].depth, choices = tokens * e.active;
  const Groups groups(e, tokens, chosen);
  using Number = typename Operand<X>::Number;
  const auto rows_of = [&](const Weight* weights, int which) {
    return room<Number>(Operand<X>::size(groups.rooms.back(), weights->depth, weights->rounds), which);
  };
  const Touched<X> up{groups, e.up, rows_of(e.up, 0)}, down{groups, e.down, rows_of(e.down, 1)};
  float* results = room<float>(choices * width, 2);
  const Parts parts(width, threads);
  std::atomic<int64_t> turns[2] = {};
  together(threads, [&](const Member& me) {
    me.part(int64_t(groups.touched.size()) * parts.count, [&](int64_t task) {  // columns of their own, as write_rows() has it
      const int64_t expert = groups.touched[task / parts.count], part = task % parts.count;
      const Operand<X> own = up.of(expert);
      for (int64_t row = 0; row < groups.size(expert); ++row) {
        const int64_t c = groups.choices[groups.starts[expert] + row];
        const Vec scale = all(e.weigh_input ? gates[c] : 1.0f);
        const auto pen = own.pen(row);
        const auto put = [&](int64_t at, Vec y) { pen.put(at, scale * y); };
        normalise(e.before, x + c / e.active * width, width, parts.start(part), parts.stop(part), put);
      }
    });
    complete_all<X>(up, me);
    share_all<X>(up, turns[0], me, [&](int64_t i) {
      return [&e, into = down.rows(i)](int64_t row, int64_t panel, Vec a, Vec b) {
        e.gated ? Gate<X>{into, e.activation}(row, panel, a, b) : Activate<X>{into, e.activation}(row, panel, a, b);
      };
    });
    complete_all<X>(down, me);
    share_all<X>(down, turns[1], me, [&](int64_t i) {
      const int64_t* mine = groups.choices.data() + groups.starts[groups.touched[i]];
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
      if (e.after) normalise_in_place(*e.after, out + token * width, width);
    });
  });
}

}  // namespace dyno
