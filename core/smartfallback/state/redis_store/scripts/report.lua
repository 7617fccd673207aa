-- Takes in what one instance says of an account: what it has spent, which reservations have ended, what
-- it remembers of a store that was lost; and leases it slices. The same report may come twice, or late.
--
-- Request  {me, turn, told, seen, version, epoch, nonce, lease, windows, ended, restore, also}
--          turn     counts this process's reports; told: the last one that was answered
--          seen     when the latest reply that it remembers was given
--          nonce    the epoch to begin, should none be known
--          lease    seconds
--          restore  by key {s, e, b, c, l, x}, or missing
--          also     keys of further windows that the reply should tell of, or missing
-- Reply    {at, version, epoch, windows} or {…, lost: 1}

local late

-- Whether the instance spoke after what the reporter remembers.
local known = {}
local function has_spoken(name)
  if known[name] == nil then
    local word = heard_of(redis.call('HGET', WINDOWS, 'heard:' .. name))
    known[name] = word ~= nil and word.at > request.seen
  end
  return known[name]
end

local function lease_to(name)
  running[name] = now + request.lease
  redis.call('ZADD', LEASES, running[name], name)
  redis.call('EXPIRE', LEASES, KEPT_FOR)
end

-- Merges what the reporter remembers of a window into what is stored, if that is the same one. A number
-- of which two copies are there is the larger one: each only grows. What is remembered of others' slices
-- and charges holds unless they have spoken since. A slice without a lease gets one below.
local function mend(key, told)
  if told.e > 0 and now >= told.e then
    return
  end
  local window = stored[key]
  local over = window and window.e > 0 and now >= window.e
  local base = base_of(told.b)
  if not window or over or (window.e == 0 and told.e > 0) then
    window = begin(key, told)
  elseif told.e > 0 and told.e <= window.s + edge(told) then
    return
  elseif window.e > 0 and told.s >= window.e - edge(told) then
    return
  elseif window.e > 0 and told.e > 0 then
    local newer = base and (not window.b or base.at > window.b.at)
    window.e = newer and told.e or math.min(window.e, told.e)
  end
  for name, spent in pairs(told.c) do
    if is_number(spent) and spent > (window.c[name] or 0) then
      window.c[name] = spent
    end
  end
  if window.b and (not base or window.b.at > base.at) then
    return -- that reading is from later than all else that is remembered
  end
  if base then
    rest_on(window, base)
  end
  for name, amount in pairs(told.x) do
    local unseen = amount + (told.c[name] or 0) - (window.c[name] or 0)
    if name ~= me and unseen > 0 and not has_spoken(name) then
      window.l[name] = nil
      window.x[name] = math.max(window.x[name] or 0, unseen)
      window.t = math.max(window.t, math.min(now, request.seen))
    end
  end
  for name, ceiling in pairs(told.l) do
    local unseen = ceiling - (window.c[name] or 0)
    if name ~= me and unseen > 0 and not has_spoken(name) then
      if window.x[name] then
        window.x[name] = math.max(window.x[name], unseen)
      else
        -- It may still spend this: until it speaks, or has had time enough to.
        window.l[name] = math.max(window.l[name] or 0, ceiling)
      end
    end
  end
end

local function restore()
  local keys = {}
  for key in pairs(request.restore) do
    if texts[key] == nil then
      keys[#keys + 1] = key
    end
  end
  if #keys > 0 then
    load(keys)
  end
  for key, told in pairs(request.restore) do
    mend(key, told)
  end
  -- Others have to hear that it was lost, but not of this mending.
  if version < request.version then
    if epoch == request.epoch then
      epoch = nil
    end
    version = request.version
  end
end

local function lease(told, window, instances)
  local spent = window.c[me] or 0
  local free = told.p - used(window) - leased(window, me) - held(told.k, window) - told.h
  local slice = math.floor(free / (2 * instances) * 10000) / 10000
  local grant = math.min(told.w, math.max(slice, math.min(told.n, free)))
  if told.k == SLOTS then
    grant = math.floor(grant + 1e-9)
  end
  -- What it goes by until it has this reply is not for others, even where that is less than it asks for.
  local ceiling = math.max(spent + told.h + math.max(0, grant), told.l or 0)
  window.l[me] = ceiling > spent and ceiling or nil
end

local function has_slice()
  for _, window in pairs(stored) do
    if window.l[me] and (window.e == 0 or now < window.e) then
      return true
    end
  end
  return false
end

local function sweep()
  local fields = redis.call('HGETALL', WINDOWS)
  local gone = {}
  for field = 1, #fields, 2 do
    local name, text = fields[field], fields[field + 1]
    if name:sub(1, 6) == 'heard:' then
      local word = heard_of(text)
      if not word or now - word.at > HEARD_FOR then
        gone[#gone + 1] = name
      end
    elseif name ~= 'version' and name ~= 'epoch' then
      local window = window_of(decoded(text))
      if not window or (window.e > 0 and now - window.e > HEARD_FOR) then
        gone[#gone + 1] = name
      end
    end
  end
  for _, name in ipairs(gone) do
    redis.call('HDEL', WINDOWS, name)
  end
  if redis.call('HLEN', AMOUNTS) ~= holds then
    held_in('', 0) -- removes those that nobody holds
  end
end

return guarded(function()
  open()
  if lost() and not request.restore then
    return answer(',"lost":1')
  end
  lapse()
  purge()
  if request.restore then
    restore()
  end
  drop_holds(request.ended)
  forget_later(request.ended)

  for _, window in pairs(stored) do
    for name in pairs((window.e == 0 or now < window.e) and window.l or {}) do
      if name ~= me and not running[name] then
        lease_to(name) -- else its slice would never end
      end
    end
  end

  -- A report that comes after a later one says nothing of what is wanted now.
  late = heard ~= nil and request.turn <= heard.number
  local instances = running[me] and 0 or 1
  for _ in pairs(running) do
    instances = instances + 1
  end
  for _, told in ipairs(request.windows) do
    local window, which, over = place(told)
    if which == 'same' then
      take_in(window, told, not late)
      if not late then
        lease(told, window, instances)
      end
    elseif over then
      take_in(window, told, not late)
      window.l[me] = nil
    end
  end
  if not late then
    local stands = has_slice()
    if not stands and running[me] then
      load_all()
      stands = has_slice()
    end
    if stands then
      lease_to(me)
    elseif running[me] then
      redis.call('ZREM', LEASES, me)
    end
  end
  save(not late) -- a full server refuses this one, as long as nothing was written before it
  redis.call('ZREMRANGEBYSCORE', ENDED, '-inf', now)
  if version % SWEPT_EACH == 0 then
    sweep()
  end
  return answer()
end)
