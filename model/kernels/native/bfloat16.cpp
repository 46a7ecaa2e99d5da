#include "doors.h"

template struct dyno::Doors<dyno::bf16>;
