-- Makes one reservation: in all windows of an account and in its concurrency, or in none. It may come
-- twice, or after its end was reported. A refused one leaves no trace.
--
-- Request  {me, turn, told, seen, version, epoch, nonce, lease, windows, id, amounts, most, ended}
-- Reply    {at, version, epoch, granted, why, windows} or {…, lost: 1}
--          why: {code} and, where code is "full": {code, key, used, held, leased, asked, cap}

local function refused(why)
  -- What was worked out here is not so: tell what is stored.
  for _, told in ipairs(request.windows) do
    local window = window_of(decoded(texts[told.k]))
    stored[told.k] = window
    texts[told.k] = window and text_of(window)
  end
  return answer(',"granted":0,"why":' .. cjson.encode(why))
end

local function full(key, window, asked, cap)
  return {
    code = 'full', key = key, asked = asked, cap = cap,
    used = window and used(window) or 0,
    leased = window and leased(window) or 0,
    held = window and held(key, window) or holds,
  }
end

return guarded(function()
  open()
  if lost() then
    return answer(',"granted":0,"lost":1')
  end
  lapse()
  purge()
  if #request.ended > 0 then
    -- What they have spent is counted in the same moment in which they hold nothing any more.
    for _, told in ipairs(request.windows) do
      local window, which = place(told)
      if which == 'same' then
        take_in(window, told, false)
      end
    end
    drop_holds(request.ended)
    forget_later(request.ended)
    changed = true
  end
  if changed then
    save()
  end
  if redis.call('ZSCORE', ENDED, request.id) then
    return refused({code = 'ended'})
  elseif redis.call('ZSCORE', HOLDS, request.id) then
    return answer(',"granted":1')
  end
  redis.call('HGET', AMOUNTS, request.id) -- fails before anything is written, should it be no hash

  local caps, windows, unasked = {}, {}, {}
  for _, told in ipairs(request.windows) do
    local window, which = place(told)
    if which == 'rolled' then
      return refused({code = 'rolled'})
    elseif which == 'same' then
      take_in(window, told, false)
    end
    caps[told.k], windows[told.k], unasked[told.k] = told.p, window, told.h
  end
  local slots = stored[SLOTS]
  if holds + (slots and leased(slots) or 0) + 1 > request.most then
    return refused(full(SLOTS, slots, 1, request.most))
  end
  local parts = {}
  for key, amount in pairs(request.amounts) do
    local window, cap = windows[key], caps[key]
    if not window then
      return refused({code = 'unknown', key = key})
    end
    local before = used(window) + held(key, window)
    local most = cap + cap * ROUNDING
    -- Its own slice makes way, but for what runs on it without having been asked for.
    local taken = before + leased(window, me) + unasked[key] + amount
    if amount < 0 or before >= cap or taken > most then
      return refused(full(key, window, amount, cap))
    end
    parts[key] = {window.s, amount}
    local spent, slice = window.c[me] or 0, leased(window) - leased(window, me)
    if slice > unasked[key] then
      local ceiling = spent + unasked[key] + math.max(0, math.min(slice - unasked[key], cap - taken))
      window.l[me] = ceiling > spent and ceiling or nil
    end
  end

  for key, part in pairs(parts) do
    local held_here = windows[key].h
    held_here[me] = (held_here[me] or 0) + part[2]
  end
  redis.call('ZADD', HOLDS, now + request.lease, request.id)
  redis.call('HSET', AMOUNTS, request.id, cjson.encode({i = me, w = parts}))
  redis.call('EXPIRE', HOLDS, KEPT_FOR)
  redis.call('EXPIRE', AMOUNTS, KEPT_FOR)
  holds = holds + 1
  save()
  return answer(',"granted":1')
end)
