-- A stand-in for the extension pg_net, for servers that do not have it. The same tables and function, and the same
-- unpleasant sides: nothing survives a crash, every role may read the queue, and a bad call raises inside the
-- transaction of its caller. The worker is a task of the stack (pg_net.rs). Run by the superuser.

create schema net;
comment on schema net is 'A stand-in for pg_net, not the extension.';

create unlogged table net.http_request_queue (
  id                   bigserial,
  method               text    not null,
  url                  text    not null,
  headers              jsonb,
  body                 bytea,
  timeout_milliseconds integer not null
);

create unlogged table net._http_response (
  id           bigint,
  status_code  integer,
  content_type text,
  headers      jsonb,
  content      text,
  timed_out    boolean,
  error_msg    text,
  created      timestamptz not null default now()
);

create function net.http_post(
  url                  text,
  body                 jsonb   default '{}',
  params               jsonb   default '{}',
  headers              jsonb   default '{"Content-Type": "application/json"}',
  timeout_milliseconds integer default 5000
) returns bigint
  language plpgsql
  security definer
  set search_path = ''
as $$
declare
  query      text;
  request_id bigint;
begin
  if exists (
    select from jsonb_each_text(http_post.headers) as header (name, value)
    where lower(header.name) = 'content-type' and header.value <> 'application/json'
  ) then
    raise exception 'Content-Type header must be "application/json"';
  end if;
  if http_post.url is not null and http_post.url !~* '^https?://[^/?#[:space:]]+' then
    raise exception 'Couldn''t parse URL';
  end if;
  select string_agg(param.name || '=' || param.value, '&') into query
  from jsonb_each_text(http_post.params) as param (name, value);

  insert into net.http_request_queue (method, url, headers, body, timeout_milliseconds)
  values (
    'POST',
    http_post.url || coalesce('?' || query, ''),
    case
      when exists (select from jsonb_object_keys(http_post.headers) as name where lower(name) = 'content-type')
      then http_post.headers
      else coalesce(http_post.headers, '{}') || '{"Content-Type": "application/json"}'
    end,
    convert_to(http_post.body::text, 'UTF8'),
    http_post.timeout_milliseconds
  )
  returning id into request_id;
  perform pg_notify('pg_net_stand_in', '');
  return request_id;
end;
$$;

grant usage on schema net to public;
grant all on all tables in schema net to public;
